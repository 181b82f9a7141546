//! Lists page by cursor: an opaque token of the last row seen, so that a page never repeats or skips while rows arrive.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use garde::Validate;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Problem;

/// One page of a list.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Page<T> {
    /// At most `limit` of them.
    pub items: Vec<T>,
    /// Where the next page begins; null after the last.
    pub next_cursor: Option<String>,
}

/// Which page.
#[derive(Debug, Default, Deserialize, Validate, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// `next_cursor` of the page before.
    #[garde(length(max = 64))]
    #[serde(default)]
    pub cursor: Option<String>,
    /// Items on a page, 1 to 100; 20 if not said.
    #[garde(range(min = 1, max = 100))]
    #[serde(default)]
    pub limit: Option<u16>,
}

impl PageQuery {
    /// The id after which the page begins.
    pub fn after(&self) -> Result<Option<Uuid>, Problem> {
        self.after_key(|bytes| Uuid::from_slice(bytes).ok())
    }

    /// The same of a list whose rows have numbers, the greatest first: the number they are below.
    pub fn below(&self) -> Result<i64, Problem> {
        Ok(self.after_key(|bytes| bytes.try_into().ok().map(i64::from_be_bytes))?.unwrap_or(i64::MAX))
    }

    /// Items on a page.
    pub fn limit(&self) -> i64 {
        self.limit.unwrap_or(20).into()
    }

    /// What `read` reads from what [`Page::keyed`] kept of a row.
    fn after_key<K>(&self, read: impl Fn(&[u8]) -> Option<K>) -> Result<Option<K>, Problem> {
        let Some(cursor) = &self.cursor else { return Ok(None) };
        let key = URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|bytes| read(&bytes));
        key.map(Some).ok_or_else(|| Problem::field("cursor", "must be the next_cursor of a page of this list"))
    }
}

impl<T> Page<T> {
    /// Makes a page of `rows`, which were asked for one beyond `limit` so that a further page is known to exist.
    pub fn new(rows: Vec<T>, limit: i64, id: impl Fn(&T) -> Uuid) -> Self {
        Self::keyed(rows, limit, |row| id(row).into_bytes())
    }

    /// The same of rows with numbers, the greatest first.
    pub fn numbered(rows: Vec<T>, limit: i64, number: impl Fn(&T) -> i64) -> Self {
        Self::keyed(rows, limit, |row| number(row).to_be_bytes())
    }

    /// A row is told from all others by its `key`.
    fn keyed<K: AsRef<[u8]>>(mut rows: Vec<T>, limit: i64, key: impl Fn(&T) -> K) -> Self {
        let limit = usize::try_from(limit).expect("a limit is 1 to 100");
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor = rows.last().filter(|_| more).map(|last| URL_SAFE_NO_PAD.encode(key(last)));
        Self { items: rows, next_cursor }
    }
}
