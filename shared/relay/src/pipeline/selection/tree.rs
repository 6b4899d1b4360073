//! Pointers below `/data`, joined where they go the same way: one pass over each object that any of them goes through
//! finds what all of them want. Values are slices of the record; what is not wanted is skipped.

use std::{borrow::Cow, fmt};

use bytes::{BufMut as _, BytesMut};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// A place that pointers go through or end at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tree {
    children: Vec<Child>,
    /// The numbers of the pointers that end here.
    ends: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Child {
    name: String,
    /// The name as a JSON string.
    quoted: String,
    /// The name as the index of an array's element (RFC 6901, section 4).
    index: Option<usize>,
    tree: Tree,
}

impl Tree {
    /// Adds a pointer under a number.
    pub(super) fn add(&mut self, tokens: &[String], number: usize) {
        let Some((first, rest)) = tokens.split_first() else { return self.ends.push(number) };
        let known = self.children.iter().position(|child| child.name == *first);
        let at = known.unwrap_or_else(|| {
            self.children.push(Child::new(first));
            self.children.len() - 1
        });
        self.children[at].tree.add(rest, number);
    }

    /// Puts what each pointer finds in `value` at its number. Of a name that is there twice the last counts, as for every
    /// JSON reader downstream.
    pub(super) fn find<'v>(&self, value: &'v RawValue, found: &mut [Option<&'v RawValue>]) {
        for &number in &self.ends {
            found[number] = Some(value);
        }
        for (child, member) in self.children.iter().zip(self.members(value)) {
            if let Some(member) = member {
                child.tree.find(member, found);
            }
        }
    }

    /// Writes `value` with nothing in it but what pointers end at, in its own shape. An array keeps the places of its elements:
    /// those before a wanted one become null.
    pub(super) fn project(&self, value: &RawValue, out: &mut BytesMut) {
        if !self.ends.is_empty() {
            return out.put_slice(value.get().as_bytes());
        }
        let members = self.members(value);
        let wanted = self.children.iter().zip(members).filter_map(|(child, member)| Some((child, member?)));
        let wanted = wanted.filter(|(child, member)| child.tree.fits(member));
        match kind(value) {
            b'{' => {
                out.put_u8(b'{');
                for (n, (child, member)) in wanted.enumerate() {
                    if n > 0 {
                        out.put_u8(b',');
                    }
                    out.put_slice(child.quoted.as_bytes());
                    out.put_u8(b':');
                    child.tree.project(member, out);
                }
                out.put_u8(b'}');
            }
            b'[' => {
                let mut wanted: Vec<_> = wanted.collect();
                wanted.sort_by_key(|(child, _)| child.index);
                out.put_u8(b'[');
                let mut next = 0;
                for (child, member) in wanted {
                    let index = child.index.unwrap_or(next);
                    while next < index {
                        out.put_slice(b"null,");
                        next += 1;
                    }
                    child.tree.project(member, out);
                    out.put_u8(b',');
                    next += 1;
                }
                if out.ends_with(b",") {
                    out.truncate(out.len() - 1);
                }
                out.put_u8(b']');
            }
            _ => out.put_slice(b"null"),
        }
    }

    /// Whether anything of `value` is wanted here: a number has nothing below it.
    fn fits(&self, value: &RawValue) -> bool {
        !self.ends.is_empty() || matches!(kind(value), b'{' | b'[')
    }

    /// Finding of each child.
    fn members<'v>(&self, value: &'v RawValue) -> Vec<Option<&'v RawValue>> {
        let mut members = vec![None; self.children.len()];
        if !self.children.is_empty() && matches!(kind(value), b'{' | b'[') {
            let mut reader = serde_json::Deserializer::from_str(value.get());
            // Cannot fail: records are checked before they are kept. One that is not has none of what is wanted.
            if reader.deserialize_any(Members { children: &self.children, found: &mut members }).is_err() {
                members.fill(None);
            }
        }
        members
    }
}

impl Child {
    fn new(name: &str) -> Self {
        let canonical = name == "0" || (!name.starts_with('0') && !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit()));
        let index = if canonical { name.parse().ok() } else { None };
        // A string is always JSON.
        let quoted = serde_json::Value::from(name).to_string();
        Self { name: name.to_owned(), quoted, index, tree: Tree::default() }
    }
}

/// The first byte of a value, which tells what it is.
fn kind(value: &RawValue) -> u8 {
    value.get().as_bytes().first().copied().unwrap_or_default()
}

struct Members<'c, 'f, 'v> {
    children: &'c [Child],
    found: &'f mut [Option<&'v RawValue>],
}

impl<'v> Visitor<'v> for Members<'_, '_, 'v> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'v>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Name(name)) = map.next_key()? {
            match self.children.iter().position(|child| child.name == *name) {
                Some(at) => self.found[at] = Some(map.next_value()?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'v>>(self, mut seq: A) -> Result<(), A::Error> {
        for index in 0.. {
            match self.children.iter().position(|child| child.index == Some(index)) {
                Some(at) => match seq.next_element()? {
                    Some(element) => self.found[at] = Some(element),
                    None => break,
                },
                None => {
                    if seq.next_element::<IgnoredAny>()?.is_none() {
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Name<'n>(#[serde(borrow)] Cow<'n, str>);
