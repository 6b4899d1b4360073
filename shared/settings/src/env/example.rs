//! Settings as the file that an operator copies: `.env.example`.

use super::Setting;

/// Longest line of a description.
const WIDTH: usize = 118;

/// A part of the file.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    /// Its heading.
    pub title: &'static str,
    /// Its settings.
    pub groups: &'static [&'static [Setting]],
}

/// The text of a file with all of these settings, each with its description and its default. Those named in `set` are not commented out.
pub fn example(head: &str, subjects: &[Subject], set: &[&str]) -> String {
    let mut out: String = head.lines().map(|line| if line.is_empty() { "#\n".to_owned() } else { format!("# {line}\n") }).collect();
    for subject in subjects {
        let rule = "─".repeat(WIDTH.saturating_sub(subject.title.chars().count() + 6));
        out.push_str(&format!("\n# ── {} {rule}\n\n", subject.title));
        for setting in subject.groups.iter().copied().flatten() {
            describe(&mut out, &setting.text());
            let mark = if set.contains(&setting.name) { "" } else { "#" };
            out.push_str(&format!("{mark}{}={}\n", setting.name, setting.default.or(setting.example).unwrap_or_default()));
            if setting.secret {
                describe(&mut out, &format!("A file that holds it, instead of {}.", setting.name));
                out.push_str(&format!("#{}_FILE=\n", setting.name));
            }
        }
    }
    out
}

impl Setting {
    /// The description as one text.
    fn text(&self) -> String {
        let mut text = self.help.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
        if let Some(production) = self.production {
            let value = if production.is_empty() { "nothing".to_owned() } else { format!("`{production}`") };
            text.push_str(&format!(" In production the default is {value}."));
        }
        text
    }
}

/// Writes a comment, broken between words.
fn describe(out: &mut String, text: &str) {
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            out.push_str(&line);
            out.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dotenv, env::Check};

    #[test]
    fn a_file_has_each_setting_with_its_description() {
        let long: &'static str = Box::leak("word ".repeat(40).into_boxed_str());
        let plain = Setting {
            name: "A",
            help: &[" First.", " Second."],
            default: Some("1"),
            production: Some("2"),
            example: None,
            secret: false,
            check: Check::Any,
        };
        let settings: &'static [Setting] = Box::leak(Box::new([
            plain,
            Setting { name: "B", help: Box::leak(Box::new([long])), default: None, production: None, example: Some("there"), ..plain },
            Setting { name: "C", default: None, production: None, secret: true, ..plain },
        ]));
        let text = example("Head.\n\nMore.", &[Subject { title: "One", groups: Box::leak(Box::new([settings])) }], &["A"]);
        assert!(text.starts_with("# Head.\n#\n# More.\n\n# ── One ───"), "{text}");
        assert!(text.contains("\n# First. Second. In production the default is `2`.\nA=1\n"), "{text}");
        assert!(text.contains("\n#B=there\n") && text.contains("\n#C=\n# A file that holds it, instead of C.\n#C_FILE=\n"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert_eq!(dotenv::parse(".env", text.as_bytes()).unwrap(), [("A".to_owned(), "1".to_owned())]);
    }
}
