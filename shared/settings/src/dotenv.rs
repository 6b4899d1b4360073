//! `.env` files, read as Node's dotenv reads them: nothing is expanded, and a mistake is told with its line.
//!
//! - `NAME=value`, also with `export` before it, blanks around `=`, or a colon and a blank instead of it; the last of several counts.
//! - A value without quotes ends before `#` and loses the blanks around it. All else stands for itself: `$`, `\`, `'`.
//! - A value in `'`, `"` or `` ` `` is what lies between, over several lines where it must; in `"` also `\n` and `\r` mean what they
//!   usually do. A quote with a backslash before it does not end the value, and both stay in it.
//! - A byte-order mark is passed over. Comments begin with `#`. A line that is none of this, which dotenv passes over, is a mistake.

use std::{fmt, fs, io, path::Path};

/// The file cannot be read. The text names the file and the line, and never quotes it: it may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    file: String,
    line: Option<usize>,
    problem: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.problem),
            None => write!(f, "{}: {}", self.file, self.problem),
        }
    }
}

impl std::error::Error for Error {}

/// The variables of a file, in its order; `None` where there is no file.
pub fn read(path: &Path) -> Result<Option<Vec<(String, String)>>, Error> {
    let file = path.display().to_string();
    match fs::read(path) {
        Ok(bytes) => parse(&file, &bytes).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error { file, line: None, problem: format!("cannot be read: {error}") }),
    }
}

/// The variables of a file's text, in its order. `file`: its name, for errors.
pub fn parse(file: &str, bytes: &[u8]) -> Result<Vec<(String, String)>, Error> {
    let wrong = |line, problem: &str| Error { file: file.to_owned(), line: Some(line), problem: problem.to_owned() };
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || bytes.contains(&0) {
        return Err(wrong(1, "this looks like UTF-16: save the file as UTF-8"));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        wrong(before.iter().filter(|byte| **byte == b'\n').count() + 1, "this is not UTF-8")
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n").replace('\r', "\n");
    let (mut pairs, mut rest, mut line) = (Vec::new(), text.as_str(), 1);
    while !rest.is_empty() {
        let end = rest.find('\n').unwrap_or(rest.len());
        let mut taken = end;
        let content = rest[..end].trim();
        if !content.is_empty() && !content.starts_with('#') {
            let (name, value) = assignment(&rest[..end]).ok_or_else(|| wrong(line, "this is not NAME=value"))?;
            // Where the value begins in all that is left: in quotes it may go beyond the line.
            let start = value.as_ptr() as usize - rest.as_ptr() as usize;
            let value = match quoted(&rest[start..]) {
                Some((inner, length)) => {
                    taken = start + length;
                    taken += rest[taken..].find('\n').unwrap_or(rest.len() - taken);
                    inner
                }
                None => bare(value),
            };
            pairs.push((name.to_owned(), value));
        }
        line += rest[..taken].matches('\n').count() + 1;
        rest = rest.get(taken + 1..).unwrap_or_default();
    }
    Ok(pairs)
}

/// The name, and what stands behind the sign, without the blanks before it.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start();
    let line = line.strip_prefix("export").filter(|rest| rest.starts_with(char::is_whitespace)).map_or(line, str::trim_start);
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')))?;
    let (name, rest) = line.split_at(end);
    if name.is_empty() {
        return None;
    }
    let value = match rest.trim_start().strip_prefix('=') {
        Some(value) => value,
        None => rest.strip_prefix(':').filter(|value| value.starts_with(char::is_whitespace))?,
    };
    Some((name, value.trim_start()))
}

/// The value in quotes at the start of the text, and its length with them; `None`: it is not in quotes, or something other than a
/// comment follows them.
fn quoted(text: &str) -> Option<(String, usize)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"' | '`'))?;
    // A backslash keeps a quote from ending the value, unless nothing else does.
    let mut ends = Vec::new();
    for (at, _) in text.match_indices(quote).skip(1) {
        ends.push(at);
        if !text[..at].ends_with('\\') {
            break;
        }
    }
    let end = ends.into_iter().rev().find(|end| {
        let behind = text[end + 1..].split('\n').next().unwrap_or_default().trim();
        behind.is_empty() || behind.starts_with('#')
    })?;
    let inner = &text[1..end];
    let inner = if quote == '"' { inner.replace("\\n", "\n").replace("\\r", "\r") } else { inner.to_owned() };
    Some((inner, end + 1))
}

/// A value without quotes; those that are around all of it go nevertheless.
fn bare(value: &str) -> String {
    let value = value.split('#').next().unwrap_or_default().trim();
    for quote in ['\'', '"', '`'] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return inner.to_owned();
        }
    }
    value.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(line: &str) -> String {
        let pairs = parse(".env", line.as_bytes()).unwrap();
        assert_eq!(pairs.len(), 1, "{line}: {pairs:?}");
        assert_eq!(pairs[0].0, "A", "{line}");
        pairs[0].1.clone()
    }

    /// Expected values come from Node's dotenv 16.
    #[test]
    fn values_are_what_they_are_to_dotenv() {
        for (line, expected) in [
            ("A=b", "b"),
            ("A=pa$$word1", "pa$$word1"),
            ("A=${HOME}$HOME", "${HOME}$HOME"),
            ("A=two words", "two words"),
            ("A=  blanks  ", "blanks"),
            ("A=it's", "it's"),
            ("A=C:\\dir\\new", "C:\\dir\\new"),
            ("A=", ""),
            ("A", "no"),
            ("A=b#c", "b"),
            ("A=b # c", "b"),
            ("A=#b", ""),
            ("A='b # c' # d", "b # c"),
            ("A=\"b#c\"#d", "b#c"),
            ("A=' b '", " b "),
            ("A='b\\nc'", "b\\nc"),
            ("A=\"b\\nc\\rd\"", "b\nc\rd"),
            ("A=\"say \\\"b\\\"\"", "say \\\"b\\\""),
            ("A='C:\\'", "C:\\"),
            ("A='b", "'b"),
            ("A=\"b\" c", "\"b\" c"),
            ("A=`b 'c' \"d\"`", "b 'c' \"d\""),
            ("A=\"b\nc\"", "b\nc"),
            ("A='b\r\nc'", "b\nc"),
            ("export A=b", "b"),
            ("  export  A = b", "b"),
            ("A : b", "no"),
            ("A: b", "b"),
            ("A=b=c==", "b=c=="),
            ("A={\"b\": \"c\"}", "{\"b\": \"c\"}"),
            ("\u{feff}A=b", "b"),
            ("A=ü", "ü"),
            ("A=\"\"", ""),
            ("A=''", ""),
            ("A='", "'"),
        ] {
            match expected {
                "no" => assert!(parse(".env", line.as_bytes()).is_err(), "{line}"),
                expected => assert_eq!(value(line), expected, "{line}"),
            }
        }
    }

    #[test]
    fn a_file_has_many_lines() {
        let text = "# comment\n\nA=1\r\nexport B='two\nlines'\n  # another\nC.d-e=3\rA=4\n";
        let pairs = parse(".env", text.as_bytes()).unwrap();
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("A", "1"), ("B", "two\nlines"), ("C.d-e", "3"), ("A", "4")]);
        assert_eq!(parse(".env", b"A='C:\\'\nB='x'").unwrap(), [("A".to_owned(), "C:\\".to_owned()), ("B".to_owned(), "x".to_owned())]);
    }

    #[test]
    fn a_mistake_is_told_with_its_line_and_without_its_words() {
        let error = |text: &[u8]| parse("dir/.env", text).unwrap_err().to_string();
        assert_eq!(error(b"A=1\nB='2\n3'\n\nhunter2 hunter2\n"), "dir/.env:5: this is not NAME=value");
        assert_eq!(error(b"=x"), "dir/.env:1: this is not NAME=value");
        assert_eq!(error(b"A=1\nB=\xff\n"), "dir/.env:2: this is not UTF-8");
        for text in [&b"\xff\xfeA\0=\0"[..], b"\xfe\xff\0A\0=", b"A\0=\0b\0"] {
            assert_eq!(error(text), "dir/.env:1: this looks like UTF-16: save the file as UTF-8");
        }
        let dir = std::env::temp_dir();
        assert_eq!(read(&dir.join("there/is/none/.env")), Ok(None));
        assert!(read(&dir).unwrap_err().to_string().contains("cannot be read"));
    }
}
