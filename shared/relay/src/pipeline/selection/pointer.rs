//! JSON pointers (RFC 6901) into the documented message: `/data/…`, `/device_id`, `/timestamp`, `/producer_id`.

use super::{Error, text::Text};

/// Deepest pointer: what records are limited to.
const MAX_TOKENS: usize = motience_proto::model::record::MAX_DEPTH;

/// A place in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pointer {
    ProducerId,
    DeviceId,
    Timestamp,
    /// Below `/data`: the reference tokens, unescaped. None: all of it.
    Data(Vec<String>),
}

impl Pointer {
    /// Reads a pointer that ends before any of `stops` or a blank. One with such characters is written as a JSON string.
    pub(super) fn read(text: &mut Text<'_>, stops: &[char]) -> Result<Self, Error> {
        let begin = text.at();
        if text.peek() == Some('"') {
            let quoted = text.string()?;
            // Escapes have changed the places of what is in quotes: its beginning is pointed at.
            return parse(&quoted).map_err(|(_, problem)| text.wrong_at(begin, problem));
        }
        let plain = text.take_while(|c| !c.is_whitespace() && !stops.contains(&c));
        parse(plain).map_err(|(at, problem)| text.wrong_at(begin + at, problem))
    }
}

/// The pointer, or what is wrong at which byte.
fn parse(pointer: &str) -> Result<Pointer, (usize, String)> {
    const ROOTS: &str = "a record has /data, /device_id, /timestamp and /producer_id";
    if !pointer.starts_with('/') {
        return Err((0, format!("a pointer into the record begins here with `/`: {ROOTS}")));
    }
    let mut tokens = Vec::new();
    let mut at = 1;
    for raw in pointer[1..].split('/') {
        tokens.push((at, unescape(raw).map_err(|place| (at + place, "`~` is written ~0, and `/` in a name ~1".to_owned()))?));
        at += raw.len() + 1;
    }
    let (names_at, root) = tokens.remove(0);
    let pointer = match root.as_str() {
        "data" if tokens.len() > MAX_TOKENS => {
            return Err((tokens[MAX_TOKENS].0, format!("records are no deeper than {MAX_TOKENS} levels")));
        }
        "data" => return Ok(Pointer::Data(tokens.into_iter().map(|(_, token)| token).collect())),
        "device_id" => Pointer::DeviceId,
        "timestamp" => Pointer::Timestamp,
        "producer_id" => Pointer::ProducerId,
        _ => return Err((names_at, ROOTS.to_owned())),
    };
    match tokens.first() {
        None => Ok(pointer),
        Some((at, _)) => Err((at - 1, format!("there is nothing below /{root}"))),
    }
}

/// A reference token's text, or the place of a `~` that means nothing.
fn unescape(raw: &str) -> Result<String, usize> {
    let mut token = String::with_capacity(raw.len());
    let mut chars = raw.char_indices();
    while let Some((at, c)) = chars.next() {
        token.push(match c {
            '~' => match chars.next() {
                Some((_, '0')) => '~',
                Some((_, '1')) => '/',
                _ => return Err(at),
            },
            plain => plain,
        });
    }
    Ok(token)
}
