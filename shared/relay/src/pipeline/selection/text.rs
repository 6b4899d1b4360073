//! Reading an expression, and pointing at the character where it cannot be read.

use motience_proto::model::selection::MAX_SELECTION;

use super::Error;

/// The rest of an expression, and its column.
pub(super) struct Text<'t> {
    parameter: &'static str,
    whole: &'t str,
    /// In bytes, at the beginning of a character.
    at: usize,
}

impl<'t> Text<'t> {
    pub(super) fn new(parameter: &'static str, whole: &'t str) -> Result<Self, Error> {
        let text = Self { parameter, whole, at: 0 };
        if whole.len() > MAX_SELECTION {
            return Err(text.wrong_at(MAX_SELECTION, format!("an expression has at most {MAX_SELECTION} bytes")));
        }
        Ok(text)
    }

    pub(super) fn rest(&self) -> &'t str {
        &self.whole[self.at..]
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn skip_blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    pub(super) fn take_if(&mut self, wanted: &str) -> bool {
        let there = self.rest().starts_with(wanted);
        if there {
            self.at += wanted.len();
        }
        there
    }

    /// The characters up to the first that is not wanted.
    pub(super) fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'t str {
        let rest = self.rest();
        let taken = &rest[..rest.find(|c| !wanted(c)).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }

    /// A JSON string.
    pub(super) fn string(&mut self) -> Result<String, Error> {
        let (begin, rest) = (self.at, self.rest());
        let mut escaped = false;
        let close = rest.char_indices().skip(1).find(|&(_, c)| {
            let closes = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            closes
        });
        let Some((close, _)) = close else {
            return Err(self.wrong_at(self.whole.len(), "this text is not closed: a `\"` is missing"));
        };
        self.at += close + 1;
        serde_json::from_str(&rest[..=close]).map_err(|e| self.not_json(begin, &e))
    }

    /// Nothing may follow.
    pub(super) fn end(&mut self) -> Result<(), Error> {
        self.skip_blanks();
        if self.rest().is_empty() { Ok(()) } else { Err(self.wrong("the expression should end here")) }
    }

    /// The next character is the wrong one.
    pub(super) fn wrong(&self, problem: impl Into<String>) -> Error {
        self.wrong_at(self.at, problem)
    }

    pub(super) fn wrong_at(&self, at: usize, problem: impl Into<String>) -> Error {
        let column = self.whole.char_indices().take_while(|&(start, _)| start < at).count() + 1;
        Error { parameter: self.parameter, expression: self.whole.to_owned(), column, problem: problem.into() }
    }

    /// A piece of JSON that began at `begin` is none. The reader's columns count bytes, and the one it failed at.
    pub(super) fn not_json(&self, begin: usize, error: &serde_json::Error) -> Error {
        let words = error.to_string();
        let words = words.split(" at line ").next().unwrap_or_default();
        let at = (begin + error.column().saturating_sub(1)).min(self.whole.len());
        self.wrong_at(at, format!("this is no JSON value: {words}"))
    }
}
