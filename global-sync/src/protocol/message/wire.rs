//! The protobuf shapes of messages, and the checks that turn them into typed ones.

use super::*;

pub(super) fn read<M: prost::Message + Default>(name: &'static str, bytes: &[u8]) -> Result<M, WireError> {
    M::decode(bytes).map_err(|error| WireError::Malformed(name, error.to_string()))
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Hello {
    #[prost(uint32, tag = "1")]
    min_version: u32,
    #[prost(uint32, tag = "2")]
    max_version: u32,
    #[prost(uint64, tag = "3")]
    features: u64,
    #[prost(string, repeated, tag = "4")]
    kinds: Vec<String>,
    #[prost(string, tag = "5")]
    cluster_id: String,
    #[prost(string, tag = "6")]
    region: String,
    #[prost(uint64, tag = "7")]
    incarnation: u64,
    #[prost(bytes = "vec", tag = "8")]
    instance: Vec<u8>,
    #[prost(string, tag = "9")]
    state: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Log {
    #[prost(string, tag = "1")]
    region: String,
    #[prost(uint64, tag = "2")]
    incarnation: u64,
    #[prost(string, tag = "3")]
    stream: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct State {
    #[prost(message, optional, tag = "1")]
    log: Option<Log>,
    #[prost(uint64, tag = "2")]
    stored: u64,
    #[prost(bytes = "vec", tag = "3")]
    hash: Vec<u8>,
    #[prost(uint64, tag = "4")]
    applied: u64,
    #[prost(uint64, tag = "5")]
    truncated: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Advert {
    #[prost(message, repeated, tag = "1")]
    logs: Vec<State>,
    #[prost(bool, tag = "2")]
    leading: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Pull {
    #[prost(message, optional, tag = "1")]
    log: Option<Log>,
    #[prost(uint64, tag = "2")]
    id: u64,
    #[prost(uint64, tag = "3")]
    from: u64,
    #[prost(uint64, tag = "4")]
    credit: u64,
    #[prost(bytes = "vec", repeated, tag = "5")]
    known_keys: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Credit {
    #[prost(message, optional, tag = "1")]
    log: Option<Log>,
    #[prost(uint64, tag = "2")]
    id: u64,
    #[prost(uint64, tag = "3")]
    bytes: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct BatchEntry {
    #[prost(bytes = "vec", tag = "1")]
    envelope: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "2")]
    body: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Batch {
    #[prost(message, optional, tag = "1")]
    log: Option<Log>,
    #[prost(uint64, tag = "2")]
    pull: u64,
    #[prost(message, repeated, tag = "3")]
    entries: Vec<BatchEntry>,
    #[prost(uint64, tag = "4")]
    seq: u64,
    #[prost(bytes = "vec", tag = "5")]
    hash: Vec<u8>,
    #[prost(bytes = "vec", tag = "6")]
    key_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "7")]
    signature: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "8")]
    certificate: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Ack {
    #[prost(message, optional, tag = "1")]
    state: Option<State>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Position {
    #[prost(string, tag = "1")]
    region: String,
    #[prost(uint64, tag = "2")]
    incarnation: u64,
    #[prost(uint64, tag = "3")]
    applied: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Vector {
    #[prost(message, repeated, tag = "1")]
    positions: Vec<Position>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Inspect {
    #[prost(string, tag = "1")]
    stream: String,
    #[prost(message, optional, tag = "2")]
    vector: Option<Vector>,
    #[prost(bytes = "vec", tag = "3")]
    prefix: Vec<u8>,
    #[prost(bool, tag = "4")]
    as_they_are: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Bucket {
    #[prost(uint64, tag = "1")]
    rows: u64,
    #[prost(bytes = "vec", tag = "2")]
    hashes: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Row {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(bytes = "vec", tag = "2")]
    hash: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Digest {
    #[prost(message, optional, tag = "1")]
    of: Option<Inspect>,
    /// All 256, or none and rows instead.
    #[prost(message, repeated, tag = "2")]
    buckets: Vec<Bucket>,
    #[prost(message, repeated, tag = "3")]
    rows: Vec<Row>,
}

fn region(name: &'static str, text: &str) -> Result<RegionName, WireError> {
    text.parse().map_err(|_| WireError::Malformed(name, "a region is no name".to_owned()))
}

fn fixed<const N: usize>(name: &'static str, bytes: &[u8]) -> Result<[u8; N], WireError> {
    bytes.try_into().map_err(|_| WireError::Malformed(name, format!("{N} bytes expected, not {}", bytes.len())))
}

impl From<&LogId> for Log {
    fn from(log: &LogId) -> Self {
        Self {
            region: log.origin.region.as_str().to_owned(),
            incarnation: log.origin.incarnation,
            stream: log.stream.as_str().to_owned(),
        }
    }
}

/// A number the database can hold.
fn number(name: &'static str, number: u64) -> Result<u64, WireError> {
    if number > MAX_NUMBER {
        return Err(WireError::Malformed(name, format!("{number} is too great")));
    }
    Ok(number)
}

fn log_id(name: &'static str, log: Option<Log>) -> Result<LogId, WireError> {
    let log = log.ok_or_else(|| WireError::Malformed(name, "it names no log".to_owned()))?;
    Ok(LogId {
        origin: Origin { region: region(name, &log.region)?, incarnation: number(name, log.incarnation)? },
        stream: stream(name, &log.stream)?,
    })
}

fn stream(name: &'static str, text: &str) -> Result<FactStream, WireError> {
    FactStream::from_name(text).ok_or_else(|| WireError::Malformed(name, "an unknown stream".to_owned()))
}

fn state(log: &LogId, state: &LogState) -> State {
    let LogState { head, applied, truncated } = *state;
    State { log: Some(log.into()), stored: head.seq, hash: head.hash.to_vec(), applied, truncated }
}

fn log_state(name: &'static str, state: State) -> Result<(LogId, LogState), WireError> {
    let hash: Hash = fixed(name, &state.hash)?;
    let head = Head { seq: number(name, state.stored)?, hash };
    let (applied, truncated) = (number(name, state.applied)?, number(name, state.truncated)?);
    Ok((log_id(name, state.log)?, LogState { head, applied, truncated }))
}

impl From<&super::Hello> for Hello {
    fn from(hello: &super::Hello) -> Self {
        Self {
            min_version: hello.min_version,
            max_version: hello.max_version,
            features: hello.features,
            kinds: hello.kinds.clone(),
            cluster_id: hello.cluster_id.clone(),
            region: hello.origin.region.as_str().to_owned(),
            incarnation: hello.origin.incarnation,
            instance: hello.instance.to_be_bytes().to_vec(),
            state: hello.state.as_str().to_owned(),
        }
    }
}

impl TryFrom<Hello> for super::Hello {
    type Error = WireError;
    fn try_from(hello: Hello) -> Result<Self, WireError> {
        if hello.kinds.len() > MAX_KINDS {
            return Err(WireError::TooMany("hello"));
        }
        Ok(Self {
            min_version: hello.min_version,
            max_version: hello.max_version,
            features: hello.features,
            kinds: hello.kinds,
            cluster_id: hello.cluster_id,
            origin: Origin {
                region: region("hello", &hello.region)?,
                incarnation: number("hello", hello.incarnation)?,
            },
            instance: u128::from_be_bytes(fixed("hello", &hello.instance)?),
            state: MemberState::from_name(&hello.state)
                .ok_or_else(|| WireError::Malformed("hello", "an unknown state".to_owned()))?,
        })
    }
}

impl From<&super::Advert> for Advert {
    fn from(advert: &super::Advert) -> Self {
        Self { logs: advert.logs.iter().map(|(log, has)| state(log, has)).collect(), leading: advert.leading }
    }
}

impl TryFrom<Advert> for super::Advert {
    type Error = WireError;
    fn try_from(advert: Advert) -> Result<Self, WireError> {
        if advert.logs.len() > MAX_LOGS {
            return Err(WireError::TooMany("advert"));
        }
        let logs = advert.logs.into_iter().map(|state| log_state("advert", state)).collect::<Result<_, _>>()?;
        Ok(Self { logs, leading: advert.leading })
    }
}

impl From<&super::Pull> for Pull {
    fn from(pull: &super::Pull) -> Self {
        Self {
            log: Some((&pull.log).into()),
            id: pull.id,
            from: pull.from,
            credit: pull.credit,
            known_keys: pull.known_keys.iter().map(|key| key.to_vec()).collect(),
        }
    }
}

impl TryFrom<Pull> for super::Pull {
    type Error = WireError;
    fn try_from(pull: Pull) -> Result<Self, WireError> {
        if pull.known_keys.len() > MAX_KINDS {
            return Err(WireError::TooMany("pull"));
        }
        if pull.from == 0 {
            return Err(WireError::Malformed("pull", "entries count from 1".to_owned()));
        }
        Ok(Self {
            log: log_id("pull", pull.log)?,
            id: pull.id,
            from: number("pull", pull.from)?,
            credit: pull.credit,
            known_keys: pull.known_keys.iter().map(|key| fixed("pull", key)).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&super::Credit> for Credit {
    fn from(credit: &super::Credit) -> Self {
        Self { log: Some((&credit.log).into()), id: credit.id, bytes: credit.bytes }
    }
}

impl TryFrom<Credit> for super::Credit {
    type Error = WireError;
    fn try_from(credit: Credit) -> Result<Self, WireError> {
        Ok(Self { log: log_id("credit", credit.log)?, id: credit.id, bytes: credit.bytes })
    }
}

impl From<&super::Batch> for Batch {
    fn from(batch: &super::Batch) -> Self {
        let entry = |entry: &Entry| BatchEntry { envelope: entry.envelope.clone(), body: entry.body.clone() };
        Self {
            log: Some((&batch.log).into()),
            pull: batch.pull,
            entries: batch.entries.iter().map(entry).collect(),
            seq: batch.checkpoint.head.seq,
            hash: batch.checkpoint.head.hash.to_vec(),
            key_id: batch.checkpoint.key_id.to_vec(),
            signature: batch.checkpoint.signature.clone(),
            certificate: batch.checkpoint.certificate.clone(),
        }
    }
}

impl TryFrom<Batch> for super::Batch {
    type Error = WireError;
    fn try_from(batch: Batch) -> Result<Self, WireError> {
        let too_long = batch.entries.iter().any(|entry| entry.envelope.len() > MAX_ENVELOPE_BYTES)
            || batch.certificate.as_ref().is_some_and(|certificate| certificate.len() > MAX_CERTIFICATE_BYTES)
            || batch.signature.len() > 256;
        if batch.entries.len() > MAX_BATCH_ENTRIES || too_long {
            return Err(WireError::TooMany("batch"));
        }
        Ok(Self {
            log: log_id("batch", batch.log)?,
            pull: batch.pull,
            entries: batch
                .entries
                .into_iter()
                .map(|entry| Entry { envelope: entry.envelope, body: entry.body })
                .collect(),
            checkpoint: Checkpoint {
                head: Head { seq: number("batch", batch.seq)?, hash: fixed("batch", &batch.hash)? },
                key_id: fixed("batch", &batch.key_id)?,
                signature: batch.signature,
                certificate: batch.certificate,
            },
        })
    }
}

impl From<&super::Ack> for Ack {
    fn from(ack: &super::Ack) -> Self {
        Self { state: Some(state(&ack.log, &ack.state)) }
    }
}

impl TryFrom<Ack> for super::Ack {
    type Error = WireError;
    fn try_from(ack: Ack) -> Result<Self, WireError> {
        let state = ack.state.ok_or_else(|| WireError::Malformed("ack", "it is empty".to_owned()))?;
        let (log, state) = log_state("ack", state)?;
        Ok(Self { log, state })
    }
}

impl From<&super::Inspect> for Inspect {
    fn from(inspect: &super::Inspect) -> Self {
        let position = |(origin, applied): (&Origin, &u64)| Position {
            region: origin.region.as_str().to_owned(),
            incarnation: origin.incarnation,
            applied: *applied,
        };
        Self {
            stream: inspect.stream.as_str().to_owned(),
            vector: inspect.vector.as_ref().map(|vector| Vector { positions: vector.iter().map(position).collect() }),
            prefix: inspect.prefix.clone(),
            as_they_are: inspect.as_they_are,
        }
    }
}

impl TryFrom<Inspect> for super::Inspect {
    type Error = WireError;
    fn try_from(inspect: Inspect) -> Result<Self, WireError> {
        const NAME: &str = "inspect";
        if inspect.prefix.len() > MAX_PREFIX {
            return Err(WireError::TooMany(NAME));
        }
        let vector = inspect.vector.map(|vector| {
            if vector.positions.len() > MAX_LOGS {
                return Err(WireError::TooMany(NAME));
            }
            let position = |position: Position| {
                let incarnation = number(NAME, position.incarnation)?;
                let origin = Origin { region: region(NAME, &position.region)?, incarnation };
                Ok((origin, number(NAME, position.applied)?))
            };
            vector.positions.into_iter().map(position).collect()
        });
        Ok(Self {
            stream: stream(NAME, &inspect.stream)?,
            vector: vector.transpose()?,
            prefix: inspect.prefix,
            as_they_are: inspect.as_they_are,
        })
    }
}

impl From<&super::Digest> for Digest {
    fn from(digest: &super::Digest) -> Self {
        let (buckets, rows) = match &digest.rows {
            Rows::Sums(sums) => {
                let bucket = |sum: &Sum| Bucket { rows: sum.rows, hashes: sum.hashes.to_vec() };
                (sums.iter().map(bucket).collect(), Vec::new())
            }
            Rows::Each(rows) => {
                let row = |row: &super::Row| Row { key: row.key.clone(), hash: row.hash.to_vec() };
                (Vec::new(), rows.iter().map(row).collect())
            }
        };
        Self { of: Some((&digest.of).into()), buckets, rows }
    }
}

impl TryFrom<Digest> for super::Digest {
    type Error = WireError;
    fn try_from(digest: Digest) -> Result<Self, WireError> {
        const NAME: &str = "digest";
        let malformed = |what: &str| WireError::Malformed(NAME, what.to_owned());
        if digest.rows.len() > MAX_ROWS || digest.rows.iter().any(|row| row.key.len() > MAX_KEY_BYTES) {
            return Err(WireError::TooMany(NAME));
        }
        let of: super::Inspect = digest.of.ok_or_else(|| malformed("it answers nothing"))?.try_into()?;
        let rows = match digest.buckets.len() {
            0 => {
                let row = |row: Row| Ok(super::Row { key: row.key, hash: fixed(NAME, &row.hash)? });
                let rows: Vec<_> = digest.rows.into_iter().map(row).collect::<Result<_, WireError>>()?;
                if !rows.is_sorted_by(|a, b| a.key < b.key) {
                    return Err(malformed("its rows are in no order"));
                }
                Rows::Each(rows)
            }
            256 if of.prefix.len() < MAX_PREFIX => {
                let sum = |bucket: Bucket| Ok(Sum { rows: bucket.rows, hashes: fixed(NAME, &bucket.hashes)? });
                Rows::Sums(digest.buckets.into_iter().map(sum).collect::<Result<_, WireError>>()?)
            }
            _ => return Err(malformed("there are 256 buckets or none")),
        };
        if of.vector.is_none() {
            return Err(malformed("it does not say as of when"));
        }
        Ok(Self { of, rows })
    }
}
