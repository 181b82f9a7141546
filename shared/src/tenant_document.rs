//! The draft of a tenant's config: an automerge document that any region may edit and every region merges alike.
//!
//! Two rules keep merging safe for money. A document is a fixed skeleton of containers ([`CONTAINERS`]), made by a
//! deterministic first change, so two regions never create the same map twice. Everything inside a container is a
//! *leaf*: one JSON value, written whole. Concurrent edits of different leaves merge; of the same leaf one wins,
//! and the other stays visible in [`TenantDocument::conflicts`]. A tariff is therefore never a mix of two edits.
//!
//! Histories grow. The home region therefore replaces a grown document by a compacted one, the next *generation*, which says
//! the same without its history. Edits that others made meanwhile on the older one are carried over
//! ([`TenantDocument::carry_over`]), by every region alike.
//!
//! A document is only a draft. What applies at run time is the version its home region validated and published.
//! Nothing here knows what a tariff is, who may edit, or what time it is.

use std::{
    collections::{HashMap, HashSet},
    fmt::{self, Write as _},
};

use automerge::{
    ActorId, AutoCommit, AutomergeError, Change, ChangeHash, ObjId, ObjType, ROOT, ReadDoc, ScalarValue,
    Value as Stored,
    legacy::{Key, ObjectId, OpType},
    transaction::{CommitOptions, Transactable},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// Maps whose entries merge one by one; every other value is replaced whole. Part of the first change of each
/// document: to add one, start a new generation.
pub const CONTAINERS: [&[&str]; 6] =
    [&["auth"], &["auth", "clients"], &["dispatch"], &["flags"], &["labels"], &["tariffs"]];

/// The largest single edit.
pub const MAX_CHANGE_BYTES: usize = 64 * 1024;
/// The largest saved document a region may still add to. Others take in what it added all the same: whether an edit fits
/// must not depend on what has arrived before it.
pub const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;
/// The longest history a region may still add to, likewise.
pub const MAX_CHANGES: u64 = 10_000;
/// A document with more changes than this has grown, and one with so many bytes more than twice what it says: time for the
/// next generation.
pub const GROWN_CHANGES: u64 = 500;
/// See [`GROWN_CHANGES`].
pub const GROWN_BYTES: usize = 64 * 1024;

/// Who edits: one stable actor per life of a region, so that histories stay small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentActor(ActorId);

impl DocumentActor {
    /// The actor of one run of a region's database. One that is put back from a backup runs anew and is a new actor thereby: it
    /// has forgotten changes that others have, and numbers its own from where the backup ends.
    pub fn of(region: &str, run: impl fmt::Display) -> Self {
        Self(actor_from(&format!("gocomet actor {region} {run}")))
    }
}

/// One place where concurrent edits disagree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conflict {
    /// JSON pointer (RFC 6901) to the value.
    pub path: String,
    /// Every distinct value written, the winner among them.
    pub values: Vec<Value>,
    /// The value every region shows.
    pub winner: Value,
}

/// What became of a set of changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppliedChanges {
    /// How many were new and are now part of the document.
    pub fresh: usize,
    /// Indices of those whose dependencies have not arrived; they were not given to the document.
    pub waiting: Vec<usize>,
}

/// Why a document refused.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The stored bytes are damaged.
    #[error("the stored document cannot be read: {0}")]
    Unreadable(String),
    /// The change is damaged, or was never one.
    #[error("not a valid change: {0}")]
    InvalidChange(String),
    /// The patch has a value of the wrong shape.
    #[error("{0} must be an object")]
    NotAnObject(String),
    /// The heads an edit is based on are not part of this document (any more).
    #[error("the document has no such version")]
    UnknownHeads,
    /// A limit of size or history is reached.
    #[error("{0}")]
    TooLarge(&'static str),
}

/// A tenant's draft in memory. Load it, change it, save it, all under a lock on its row.
pub struct TenantDocument {
    /// Boxed, since it is large and futures hold it.
    doc: Box<AutoCommit>,
}

impl TenantDocument {
    /// The empty draft. Every region makes the same one, bit for bit, for a tenant and generation.
    pub fn create(tenant: &str, generation: u32) -> Self {
        let genesis = format!("{GENESIS}{tenant} {generation}");
        let mut doc = AutoCommit::new().with_actor(actor_from(&genesis));
        for path in CONTAINERS {
            let (key, parents) = path.split_last().expect("a container has a name");
            let parent = container(&doc, parents).expect("parents are listed before their children");
            doc.put_object(&parent, *key, ObjType::Map).expect("a fresh map takes any key");
        }
        doc.commit_with(CommitOptions::default().with_message(genesis).with_time(0));
        Self { doc: Box::new(doc) }
    }

    /// The draft `content` without a history, a document's next generation. Every region makes the same one, bit for bit.
    pub fn compact(tenant: &str, generation: u32, content: &Value) -> Result<Self, DocumentError> {
        let mut compacted = Self::create(tenant, generation);
        let Value::Object(content) = content else { return Err(DocumentError::NotAnObject("a draft".to_owned())) };
        let mut edits = Vec::new();
        let base = compacted.doc.get_heads();
        compacted.collect_edits(&mut Vec::new(), content, &base, &mut edits)?;
        compacted.doc.set_actor(actor_from(&format!("gocomet compacted document {tenant} {generation}")));
        for Edit { object, key, value } in edits {
            if let Some(json) = value {
                let put = compacted.doc.put(&object, key, ScalarValue::Str(json.into()));
                put.map_err(|error| DocumentError::InvalidChange(error.to_string()))?;
            }
        }
        compacted.doc.commit_with(CommitOptions::default().with_time(0));
        Ok(compacted)
    }

    /// Whether its history is long, or large beside what it says.
    pub fn is_grown(&mut self) -> bool {
        let content = canonical_json(&self.to_json()).len();
        self.doc.stats().num_changes > GROWN_CHANGES || self.doc.save().len() > GROWN_BYTES + 2 * content
    }

    /// Whether everything before these heads is here.
    pub fn knows(&mut self, heads: &[String]) -> bool {
        self.known_heads(heads).is_ok()
    }

    /// Takes over what was edited on the generation before this one beyond `base`, its heads when this one was made of it.
    /// Each edit is written again, on what it was made on: the result is the same change in every region, however often and
    /// in whatever order they come. Returns how many were new.
    ///
    /// After an error the document must be thrown away; nothing of it may be saved.
    pub fn carry_over(&mut self, previous: &mut Self, base: &[String]) -> Result<usize, DocumentError> {
        let base = previous.known_heads(base)?;
        let late = previous.doc.get_changes(&base);
        if late.is_empty() {
            return Ok(0);
        }
        let first = self.first_heads()?;
        let known: HashMap<ActorId, ChangeHash> =
            self.doc.get_changes(&first).iter().map(|change| (change.actor_id().clone(), change.hash())).collect();
        let mut written: HashMap<ChangeHash, ChangeHash> = HashMap::new();
        let mut new = Vec::new();
        for change in late {
            let actor = actor_from(&format!("gocomet carried over {}", change.hash()));
            if let Some(hash) = known.get(&actor) {
                written.insert(change.hash(), *hash);
                continue;
            }
            let deps: Vec<ChangeHash> = change.deps().iter().filter_map(|dep| written.get(dep)).copied().collect();
            let on = if deps.is_empty() { &first } else { &deps };
            let invalid = |error: AutomergeError| DocumentError::InvalidChange(error.to_string());
            // Only what it was made on: what else is known here must leave no mark in it.
            let mut fork = self.doc.fork_at(on).map_err(invalid)?.with_actor(actor);
            for (path, key, value) in writes(&change)? {
                let object = container(&fork, path).expect("every generation has the containers");
                match value {
                    Some(json) => fork.put(&object, key, ScalarValue::Str(json.into())),
                    None => fork.delete(&object, key),
                }
                .map_err(invalid)?;
            }
            let options = || CommitOptions::default().with_time(0);
            let hash = fork.commit_with(options()).unwrap_or_else(|| fork.empty_change(options()));
            let again = fork.get_change_by_hash(&hash).expect("a commit is part of its document");
            self.doc.apply_changes([again.clone()]).map_err(invalid)?;
            written.insert(change.hash(), hash);
            new.push(hash);
        }
        Ok(new.len())
    }

    /// The heads when this generation began: of the change that says what the one before said, if it said anything.
    fn first_heads(&mut self) -> Result<Vec<ChangeHash>, DocumentError> {
        let changes = self.doc.get_changes(&[]);
        let genesis = changes.iter().find(|change| change.deps().is_empty());
        let genesis = genesis.ok_or_else(|| DocumentError::Unreadable("it has no first change".to_owned()))?;
        let about = genesis.message().and_then(|message| message.strip_prefix(GENESIS)).unwrap_or_default();
        let compacted = actor_from(&format!("gocomet compacted document {about}"));
        let first = changes.iter().find(|change| *change.actor_id() == compacted).unwrap_or(genesis);
        Ok(vec![first.hash()])
    }

    /// Reads what [`TenantDocument::save`] wrote.
    pub fn load(bytes: &[u8]) -> Result<Self, DocumentError> {
        let doc = AutoCommit::load(bytes).map_err(|error| DocumentError::Unreadable(error.to_string()))?;
        for path in CONTAINERS {
            container(&doc, path).ok_or_else(|| DocumentError::Unreadable(format!("{} is missing", pointer(path))))?;
        }
        Ok(Self { doc: Box::new(doc) })
    }

    /// The document as bytes. Replicas with equal heads may differ in these; compare heads, never bytes.
    pub fn save(&mut self) -> Vec<u8> {
        self.doc.save()
    }

    /// The version of the document: equal heads, equal content. Sorted hex, fit for an `ETag`.
    pub fn heads(&mut self) -> Vec<String> {
        let mut heads: Vec<_> = self.doc.get_heads().iter().map(ToString::to_string).collect();
        heads.sort_unstable();
        heads
    }

    /// Edits the document by a JSON merge patch (RFC 7396) as seen at `base_heads` (now, if `None`), and returns the
    /// change to replicate, or `None` when the patch changes nothing.
    ///
    /// A patch made against older heads is merged with what happened since: it overwrites nothing it did not touch.
    ///
    /// After an error the document must be thrown away; nothing of it may be saved.
    pub fn apply_merge_patch(
        &mut self,
        base_heads: Option<&[String]>,
        patch: &Value,
        actor: &DocumentActor,
    ) -> Result<Option<Vec<u8>>, DocumentError> {
        let base = match base_heads {
            Some(heads) => self.known_heads(heads)?,
            None => self.doc.get_heads(),
        };
        let Value::Object(patch) = patch else { return Err(DocumentError::NotAnObject("a merge patch".to_owned())) };
        let mut edits = Vec::new();
        self.collect_edits(&mut Vec::new(), patch, &base, &mut edits)?;
        if edits.is_empty() {
            return Ok(None);
        }
        let size: usize = edits.iter().map(|edit| edit.key.len() + edit.value.as_ref().map_or(0, String::len)).sum();
        if size > MAX_CHANGE_BYTES - 1024 {
            return Err(DocumentError::TooLarge("the edit is larger than 64 KiB"));
        }
        if self.doc.stats().num_changes >= MAX_CHANGES {
            return Err(DocumentError::TooLarge("the draft has too long a history"));
        }

        self.doc.set_actor(actor.0.clone());
        self.doc.isolate(&base);
        for Edit { object, key, value } in edits {
            match value {
                Some(json) => self.doc.put(&object, key, ScalarValue::Str(json.into())),
                None => self.doc.delete(&object, key),
            }
            .map_err(|error| DocumentError::InvalidChange(error.to_string()))?;
        }
        let hash = self.doc.commit_with(CommitOptions::default().with_time(0)).expect("there was an edit");
        self.doc.integrate();
        let change = self.doc.get_change_by_hash(&hash).expect("a commit is part of its document").raw_bytes().to_vec();
        // What another region would refuse must not be made: this one would show an edit no other ever sees.
        if change.len() > MAX_CHANGE_BYTES {
            return Err(DocumentError::TooLarge("the edit is larger than 64 KiB"));
        }
        if self.doc.save().len() > MAX_DOCUMENT_BYTES {
            return Err(DocumentError::TooLarge("the draft would grow beyond 1 MiB"));
        }
        Ok(Some(change))
    }

    /// Takes in changes of other regions, in any order, any number of times. A change whose dependencies are missing
    /// is left out and reported: the document never holds an orphan.
    ///
    /// After an error the document must be thrown away; nothing of it may be saved.
    pub fn apply_changes<B: AsRef<[u8]>>(&mut self, changes: &[B]) -> Result<AppliedChanges, DocumentError> {
        let changes = changes.iter().map(|bytes| read_change(bytes.as_ref())).collect::<Result<Vec<_>, _>>()?;
        let mut outcome = AppliedChanges::default();
        let mut waiting: Vec<usize> = (0..changes.len()).collect();
        let mut accepted: Vec<Change> = Vec::new();
        let mut accepted_hashes = HashSet::new();
        loop {
            let before = waiting.len();
            waiting.retain(|&index| {
                let change = &changes[index];
                if accepted_hashes.contains(&change.hash()) || self.has(&change.hash()) {
                    return false;
                }
                let ready = change.deps().iter().all(|dep| accepted_hashes.contains(dep) || self.has(dep));
                // A first change that depends on nothing is another document's genesis: it waits for ever.
                if ready && !change.deps().is_empty() {
                    accepted_hashes.insert(change.hash());
                    accepted.push(change.clone());
                    return false;
                }
                true
            });
            if waiting.len() == before {
                break;
            }
        }
        outcome.fresh = accepted.len();
        outcome.waiting = waiting;
        if accepted.is_empty() {
            return Ok(outcome);
        }
        self.doc.apply_changes(accepted).map_err(|error| DocumentError::InvalidChange(error.to_string()))?;
        for path in CONTAINERS {
            container(&self.doc, path)
                .ok_or_else(|| DocumentError::InvalidChange(format!("it removes {}", pointer(path))))?;
        }
        Ok(outcome)
    }

    /// Takes in everything another copy of the same draft has.
    ///
    /// After an error the document must be thrown away; nothing of it may be saved.
    pub fn merge(&mut self, other: &mut Self) -> Result<(), DocumentError> {
        self.doc.merge(&mut other.doc).map_err(|error| DocumentError::InvalidChange(error.to_string()))?;
        Ok(())
    }

    /// What the draft reads as. Empty containers are left out.
    pub fn to_json(&self) -> Value {
        Value::Object(self.container_to_json(&mut Vec::new()))
    }

    /// Where concurrent edits disagree, in the order of their paths.
    pub fn conflicts(&self) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        self.collect_conflicts(&mut Vec::new(), &mut conflicts);
        conflicts.sort_by(|a, b| a.path.cmp(&b.path));
        conflicts
    }

    fn has(&self, hash: &ChangeHash) -> bool {
        ReadDoc::get_missing_deps(&*self.doc, &[*hash]).is_empty()
    }

    fn known_heads(&mut self, heads: &[String]) -> Result<Vec<ChangeHash>, DocumentError> {
        let heads = heads
            .iter()
            .map(|text| text.parse::<ChangeHash>().map_err(|_| DocumentError::UnknownHeads))
            .collect::<Result<Vec<_>, _>>()?;
        if heads.is_empty() || heads.iter().any(|hash| !self.has(hash)) {
            return Err(DocumentError::UnknownHeads);
        }
        Ok(heads)
    }

    fn collect_edits(
        &self,
        path: &mut Vec<String>,
        patch: &Map<String, Value>,
        base: &[ChangeHash],
        edits: &mut Vec<Edit>,
    ) -> Result<(), DocumentError> {
        let object = container(&self.doc, path).expect("only containers are walked");
        for (key, wanted) in patch {
            path.push(key.clone());
            if is_container(path) {
                match wanted {
                    Value::Object(inner) => self.collect_edits(path, inner, base, edits)?,
                    Value::Null => self.collect_clearing(path, base, edits)?,
                    _ => return Err(DocumentError::NotAnObject(pointer(path))),
                }
            } else {
                let written: Vec<_> = self
                    .doc
                    .get_all_at(&object, key.as_str(), base)
                    .unwrap_or_default()
                    .into_iter()
                    .map(|(stored, _)| leaf(&stored))
                    .collect();
                let current =
                    self.doc.get_at(&object, key.as_str(), base).ok().flatten().map(|(stored, _)| leaf(&stored));
                let value = merge_patch(current.as_ref(), wanted);
                // Writing a disputed value again is how a person settles the dispute.
                if value != current || written.len() > 1 {
                    let value = value.map(|value| canonical_json(&value));
                    edits.push(Edit { object: object.clone(), key: key.clone(), value });
                }
            }
            path.pop();
        }
        Ok(())
    }

    fn collect_clearing(
        &self,
        path: &mut Vec<String>,
        base: &[ChangeHash],
        edits: &mut Vec<Edit>,
    ) -> Result<(), DocumentError> {
        let object = container(&self.doc, path).expect("only containers are cleared");
        let everything = self.doc.keys_at(&object, base).map(|key| (key, Value::Null)).collect();
        self.collect_edits(path, &everything, base, edits)
    }

    fn container_to_json(&self, path: &mut Vec<String>) -> Map<String, Value> {
        let object = container(&self.doc, path).expect("only containers are walked");
        let mut json = Map::new();
        for key in self.doc.keys(&object) {
            path.push(key.clone());
            if is_container(path) {
                let inner = self.container_to_json(path);
                if !inner.is_empty() {
                    json.insert(key, Value::Object(inner));
                }
            } else if let Ok(Some((stored, _))) = self.doc.get(&object, key.as_str()) {
                json.insert(key, leaf(&stored));
            }
            path.pop();
        }
        json
    }

    fn collect_conflicts(&self, path: &mut Vec<String>, conflicts: &mut Vec<Conflict>) {
        let object = container(&self.doc, path).expect("only containers are walked");
        for key in self.doc.keys(&object) {
            path.push(key.clone());
            if is_container(path) {
                self.collect_conflicts(path, conflicts);
            } else {
                let mut values: Vec<Value> = Vec::new();
                for (stored, _) in self.doc.get_all(&object, key.as_str()).unwrap_or_default() {
                    let value = leaf(&stored);
                    if !values.contains(&value) {
                        values.push(value);
                    }
                }
                if values.len() > 1
                    && let Ok(Some((stored, _))) = self.doc.get(&object, key.as_str())
                {
                    values.sort_by_key(canonical_json);
                    conflicts.push(Conflict { path: pointer(path), values, winner: leaf(&stored) });
                }
            }
            path.pop();
        }
    }
}

/// The hashes of the changes a change builds on.
pub fn change_dependencies(bytes: &[u8]) -> Result<Vec<String>, DocumentError> {
    Ok(read_change(bytes)?.deps().iter().map(ToString::to_string).collect())
}

/// JSON with its keys sorted and no spaces: equal values, equal text.
pub fn canonical_json(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    text
}

/// How the message of a first change begins; tenant and generation follow.
const GENESIS: &str = "gocomet tenant document ";

/// The type of an uncompressed change in automerge's binary format.
const CHANGE_CHUNK: u8 = 1;

struct Edit {
    object: ObjId,
    key: String,
    value: Option<String>,
}

/// Reads one change and proves that it is whole: automerge itself does not compare the checksum.
fn read_change(bytes: &[u8]) -> Result<Change, DocumentError> {
    if bytes.len() > MAX_CHANGE_BYTES {
        return Err(DocumentError::TooLarge("a change is larger than 64 KiB"));
    }
    // Magic, checksum, type, length, content. Compressed chunks are never written here and would let a few bytes
    // grow into megabytes.
    if bytes.get(8) != Some(&CHANGE_CHUNK) {
        return Err(DocumentError::InvalidChange("not a plain change".to_owned()));
    }
    let change = Change::from_bytes(bytes.to_vec()).map_err(|error| DocumentError::InvalidChange(error.to_string()))?;
    // The checksum is the start of the hash.
    if bytes.get(4..8) != change.hash().0.get(0..4) {
        return Err(DocumentError::InvalidChange("its checksum does not match".to_owned()));
    }
    Ok(change)
}

/// What a change writes: into which container, under which key, which text; none where it removes.
type Write = (&'static [&'static str], String, Option<String>);

fn writes(change: &Change) -> Result<Vec<Write>, DocumentError> {
    let invalid = |what: &str| DocumentError::InvalidChange(format!("it {what}, which no edit does"));
    let writes = change.decode().operations.into_iter().map(|op| {
        let path = match &op.obj {
            ObjectId::Root => &[],
            // The first change makes the containers, one after the other, counting from one.
            ObjectId::Id(id) => {
                let at = usize::try_from(id.counter()).ok().and_then(|counter| counter.checked_sub(1));
                at.and_then(|at| CONTAINERS.get(at).copied()).ok_or_else(|| invalid("writes elsewhere"))?
            }
        };
        let Key::Map(key) = op.key else { return Err(invalid("writes into a list")) };
        match op.action {
            OpType::Put(ScalarValue::Str(json)) => Ok((path, key.to_string(), Some(json.to_string()))),
            OpType::Delete => Ok((path, key.to_string(), None)),
            _ => Err(invalid("writes something else than text")),
        }
    });
    writes.collect()
}

fn actor_from(seed: &str) -> ActorId {
    ActorId::from(&Sha256::digest(seed.as_bytes())[..16])
}

fn is_container<S: AsRef<str>>(path: &[S]) -> bool {
    CONTAINERS.iter().any(|known| known.len() == path.len() && known.iter().zip(path).all(|(a, b)| *a == b.as_ref()))
}

fn container<S: AsRef<str>>(doc: &AutoCommit, path: &[S]) -> Option<ObjId> {
    let mut object = ROOT;
    for key in path {
        match doc.get(&object, key.as_ref()) {
            Ok(Some((Stored::Object(ObjType::Map), id))) => object = id,
            _ => return None,
        }
    }
    Some(object)
}

/// A leaf is JSON text; whatever else stands there was not written by this program and reads as null.
fn leaf(stored: &Stored<'_>) -> Value {
    stored.as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null)
}

/// RFC 7396 for one value; `None` is "no such member".
fn merge_patch(current: Option<&Value>, patch: &Value) -> Option<Value> {
    match patch {
        Value::Null => None,
        Value::Object(patch) => {
            let mut merged = match current {
                Some(Value::Object(current)) => current.clone(),
                _ => Map::new(),
            };
            for (key, wanted) in patch {
                match merge_patch(merged.get(key), wanted) {
                    Some(value) => merged.insert(key.clone(), value),
                    None => merged.remove(key),
                };
            }
            Some(Value::Object(merged))
        }
        other => Some(other.clone()),
    }
}

fn pointer<S: AsRef<str>>(path: &[S]) -> String {
    path.iter().fold(String::new(), |mut text, key| {
        text.push('/');
        text.push_str(&key.as_ref().replace('~', "~0").replace('/', "~1"));
        text
    })
}

fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut members: Vec<_> = map.iter().collect();
            members.sort_unstable_by_key(|(key, _)| *key);
            text.push('{');
            for (index, (key, member)) in members.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_canonical(&Value::String(key.clone()), text);
                text.push(':');
                write_canonical(member, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_canonical(item, text);
            }
            text.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            write!(text, "{value}").expect("a String takes any text");
        }
    }
}

#[cfg(test)]
mod tests;
