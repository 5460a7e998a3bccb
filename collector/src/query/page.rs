//! Pages and their tokens. A token holds the place where the next page begins, and a hash of the question: with another
//! question the place would mean something else.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use picket_proto::{limits, v1};
use prost::Message;
use sha2::{Digest, Sha256};

use super::QueryError;

const VERSION: u8 = 1;
const HASH_BYTES: usize = 8;
/// Longest token, characters: a host name or a finding's key with room to spare.
const TOKEN_CHARS: usize = 1024;

/// Which list a token belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum List {
    /// Nodes.
    Nodes = 1,
    /// Findings.
    Findings = 2,
    /// Detections.
    Detections = 3,
    /// All events.
    History = 4,
}

/// One page of one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paging {
    /// At most so many entries.
    pub size: usize,
    /// Where the page begins; none for the first.
    pub place: Option<Vec<u8>>,
    head: Vec<u8>,
}

impl Paging {
    /// Reads the page that is asked for. Sizes over the limit are held at it.
    ///
    /// # Errors
    /// [`QueryError::Token`].
    pub fn from_wire(list: List, filter: Option<&v1::Filter>, page: Option<v1::Page>) -> Result<Self, QueryError> {
        let page = page.unwrap_or_default();
        let size = match usize::try_from(page.size).unwrap_or(limits::PAGE_MAX) {
            0 => limits::PAGE_DEFAULT,
            size => size.min(limits::PAGE_MAX),
        };
        let question = filter.map(Message::encode_to_vec).unwrap_or_default();
        let mut head = vec![VERSION, list as u8];
        head.extend(Sha256::digest(question).iter().take(HASH_BYTES));
        let place = if page.token.is_empty() { None } else { Some(read(&head, &page.token)?) };
        Ok(Self { size, place, head })
    }

    /// The token of the page that begins at a place; empty when there is none.
    pub fn token(&self, place: Option<&[u8]>) -> String {
        place.map_or_else(String::new, |place| URL_SAFE_NO_PAD.encode([&self.head, place].concat()))
    }
}

fn read(head: &[u8], token: &str) -> Result<Vec<u8>, QueryError> {
    if token.len() > TOKEN_CHARS {
        return Err(QueryError::Token("it is too long to be one of this collector"));
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| QueryError::Token("it is none of this collector"))?;
    let (found, place) =
        bytes.split_at_checked(head.len()).ok_or(QueryError::Token("it is too short to be one of this collector"))?;
    if found.get(..2) != head.get(..2) {
        return Err(QueryError::Token("it belongs to another list or another version of the collector"));
    }
    if found != head {
        return Err(QueryError::Token("it was made for another filter"));
    }
    Ok(place.to_vec())
}
