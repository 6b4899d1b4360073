//! An error as one line.

use std::error::Error;

/// An error and its causes, each once: many errors tell their cause themselves, and would have it told again.
pub fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let told = cause.to_string();
        if !text.contains(&told) {
            text.push_str(": ");
            text.push_str(&told);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn each_cause_is_told_once() {
        let layer = |text, source: Option<Layer>| Layer { text, source: source.map(Box::new) };
        let cause = || layer("connection refused", None);
        assert_eq!(causes(&cause()), "connection refused");
        let told = layer("cannot open the database", Some(layer("i/o: connection refused", Some(cause()))));
        assert_eq!(causes(&told), "cannot open the database: i/o: connection refused");
    }
}
