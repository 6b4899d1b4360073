//! Fields of a text log, and labels of series, in which nobody can forge another field or another line.
//!
//! Devices and clients choose names, reasons and addresses that are logged. A value that is not a plain word is therefore quoted, with
//! everything escaped that a terminal or a reader of the log could take for something else.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FormatFields, format::Writer},
};

/// The field that holds an event's sentence.
const MESSAGE: &str = "message";

/// A label of a series and its value, as Prometheus reads them.
pub(super) fn label(name: &str, value: &str) -> String {
    format!("{name}=\"{}\"", value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n"))
}

/// Formats fields as `name=word` or `name="quoted"`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields;

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut line = Line { writer, is_first: true, outcome: Ok(()) };
        fields.record(&mut line);
        line.outcome
    }
}

struct Line<'w> {
    writer: Writer<'w>,
    is_first: bool,
    outcome: fmt::Result,
}

impl Line<'_> {
    fn field(&mut self, field: &Field, value: &str) -> fmt::Result {
        if !std::mem::take(&mut self.is_first) {
            self.writer.write_char(' ')?;
        }
        if field.name() == MESSAGE {
            return sentence(&mut self.writer, value);
        }
        write!(self.writer, "{}=", field.name())?;
        if is_word(value) { self.writer.write_str(value) } else { write!(self.writer, "{value:?}") }
    }
}

impl Visit for Line<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if self.outcome.is_ok() {
            self.outcome = self.field(field, value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// Whether a value needs no quotes: it has no blank, no quote, nothing that could begin another field.
fn is_word(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'=' | b'\\'))
}

/// A sentence is ours, and may have somebody's words in it: quotes stay, what cannot be seen does not.
fn sentence(writer: &mut Writer<'_>, text: &str) -> fmt::Result {
    for c in text.chars() {
        match c {
            '"' | '\'' | '\\' => writer.write_char(c)?,
            c => write!(writer, "{}", c.escape_debug())?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use parking_lot::Mutex;
    use tracing_subscriber::{fmt::MakeWriter, layer::SubscriberExt as _};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'w> MakeWriter<'w> for Page {
        type Writer = Self;

        fn make_writer(&'w self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_name_forges_neither_a_line_nor_a_field() {
        let page = Page::default();
        let layer = tracing_subscriber::fmt::layer().fmt_fields(Fields).with_ansi(false).without_time().with_writer(page.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            for evil in
                ["a\nINFO root logged in", "a user=root", "a\" user=\"root", "\u{1b}[2Ja", "a\u{202e}b\u{200b}c", "a\u{2028}b", "x\r\ty"]
            {
                let _span = tracing::info_span!("quic", device = evil, peer = %evil).entered();
                tracing::info!(name = %evil, other = evil, third = ?evil, "{evil} said something");
            }
            tracing::info!(device = "rpi_001", at = %"127.0.0.1:80", count = 5, good = true, "it is plain");
        });
        let text = String::from_utf8(page.0.lock().clone()).unwrap();
        assert_eq!(text.lines().count(), 8, "{text}");
        let hidden = |c: char| c != '\n' && (c.is_control() || ['\u{202e}', '\u{200b}', '\u{2028}'].contains(&c));
        assert!(!text.contains(hidden), "{text:?}");
        for line in text.lines().take(7) {
            // With everything quoted cut out, the attacker's fields stand in the sentence only.
            let mut outside = String::new();
            let (mut quoted, mut escaped) = (false, false);
            for c in line.split(" said something ").last().unwrap().chars() {
                match c {
                    _ if escaped => escaped = false,
                    '\\' if quoted => escaped = true,
                    '"' => quoted = !quoted,
                    c if !quoted => outside.push(c),
                    _ => {}
                }
            }
            assert!(!quoted && !outside.contains("user"), "{line}");
        }
        assert!(text.ends_with("it is plain device=rpi_001 at=127.0.0.1:80 count=5 good=true\n"), "{text}");
    }
}
