//! The one form in which a name or a password counts: PRECIS (RFC 8264), with the profiles of RFC 8265, and names that look like
//! others (Unicode Technical Standard 39).
//!
//! New accounts have canonical names. Accounts from before keep theirs, whatever these are, and log in with them exactly.

use precis_profiles::{
    OpaqueString, UsernameCaseMapped,
    precis_core::{
        DerivedPropertyValue, Error,
        profile::{PrecisFastInvocation as _, Rules as _},
    },
};
use unicode_security::{confusable_detection::skeleton, mixed_script::AugmentedScriptSet};

/// Longest username, in characters: the width of `username VARCHAR(255)`.
pub(super) const MAX_USERNAME: usize = 255;

/// Longest password, in characters, as JSON Schema counts; what hashing one more byte costs must not be the caller's choice.
pub const MAX_PASSWORD: usize = 128;

/// Why a username is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUsername {
    /// Nothing, or more than a name is given room for.
    #[error("username must be 1 to {MAX_USERNAME} characters")]
    Length,
    /// The name has other characters than letters, digits, ASCII marks and single blanks.
    #[error("username must have letters, digits and ASCII marks only, with single blanks between them")]
    Characters,
    /// The name looks like another name.
    #[error("username must not mix scripts, or have letters that look like others")]
    Confusable,
}

/// The name that a new account called `name` gets: `UsernameCaseMapped` (RFC 8265, section 3.3), in parts where single blanks stand
/// between them. Refuses what would look like another name: invisible and directional characters, letters of several scripts, and
/// letters of another script or form that read as plain Latin ones.
pub fn canonical_username(name: &str) -> Result<String, InvalidUsername> {
    if name.is_empty() || name.chars().count() > MAX_USERNAME {
        return Err(InvalidUsername::Length);
    }
    let parts: Result<Vec<_>, _> = name.split(' ').map(UsernameCaseMapped::enforce).collect();
    let canonical = parts.map_err(|_| InvalidUsername::Characters)?.join(" ");
    if canonical.chars().count() > MAX_USERNAME {
        return Err(InvalidUsername::Length);
    }
    if looks_like_another(&canonical) { Err(InvalidUsername::Confusable) } else { Ok(canonical) }
}

/// Canonical form of a part of a name, for comparing: the mappings of a canonical name, with any characters.
pub fn folded(text: &str) -> String {
    let profile = UsernameCaseMapped::new();
    let mapped = profile.width_mapping_rule(text).and_then(|text| profile.case_mapping_rule(text));
    mapped.and_then(|text| profile.normalization_rule(text)).map_or_else(|_| text.to_lowercase(), Into::into)
}

/// The password is of characters that cannot be typed again for certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Untypable;

/// Canonical form of a password: `OpaqueString` (RFC 8265, section 4.2). Characters that are newer than the profile's tables are taken too,
/// such as a new emoji.
pub(super) fn canonical_password(password: &str) -> Result<String, Untypable> {
    match OpaqueString::enforce(password) {
        Ok(canonical) => Ok(canonical.into_owned()),
        Err(Error::BadCodepoint(bad)) if bad.property == DerivedPropertyValue::Unassigned && !password.chars().any(char::is_control) => {
            let profile = OpaqueString::new();
            let mapped = profile.additional_mapping_rule(password).and_then(|text| profile.normalization_rule(text));
            mapped.map(Into::into).map_err(|_| Untypable)
        }
        Err(_) => Err(Untypable),
    }
}

fn looks_like_another(name: &str) -> bool {
    !name.is_ascii() && (mixes_scripts(name) || skeleton(name).all(|c| c.is_ascii()))
}

/// Whether letters of scripts stand together that no language writes together: "highly restrictive" (UTS 39, section 5.2).
fn mixes_scripts(name: &str) -> bool {
    let (mut all, mut beside_latin) = (AugmentedScriptSet::default(), AugmentedScriptSet::default());
    for letter in name.chars() {
        let scripts = AugmentedScriptSet::for_char(letter);
        all.intersect_with(scripts);
        if !letter.is_ascii_alphabetic() && !is_latin(letter) {
            beside_latin.intersect_with(scripts);
        }
    }
    // Latin beside Chinese, Japanese or Korean is how these are written.
    all.is_empty() && !(beside_latin.hanb || beside_latin.jpan || beside_latin.kore)
}

fn is_latin(letter: char) -> bool {
    let mut scripts = AugmentedScriptSet::for_char(letter);
    let common = scripts.is_all();
    scripts.intersect_with(AugmentedScriptSet::for_char('a'));
    !common && !scripts.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_person_are_one_name() {
        for (typed, canonical) in [
            ("producer1", "producer1"),
            ("Producer1", "producer1"),
            ("RPI_001@site-2.example+x", "rpi_001@site-2.example+x"),
            ("Ada Lovelace", "ada lovelace"),
            ("caf\u{e9}", "caf\u{e9}"),
            ("cafe\u{301}", "caf\u{e9}"),
            ("\u{ff52}\u{ff4f}\u{ff4f}\u{ff54}", "root"),
            ("Пётр", "пётр"),
            ("ЖУК-7", "жук-7"),
            ("東京タワー3", "東京タワー3"),
            ("sensor東京", "sensor東京"),
            ("서울kim", "서울kim"),
            ("שלום", "שלום"),
            ("Ωμέγα", "ωμέγα"),
        ] {
            assert_eq!(canonical_username(typed).as_deref(), Ok(canonical), "{typed}");
            assert_eq!(canonical_username(canonical).as_deref(), Ok(canonical), "it is canonical itself");
        }
    }

    #[test]
    fn what_cannot_be_seen_or_turns_the_text_is_refused() {
        for hidden in [
            "ro\u{200b}ot",
            "ro\u{200d}ot",
            "ro\u{200c}ot",
            "\u{feff}root",
            "root\u{2060}",
            "ro\u{ad}ot",
            "\u{202e}toor",
            "root\u{200e}",
            "\u{2066}root\u{2069}",
            "ro\u{34f}ot",
            "root\u{e0061}",
            "root\u{fe0f}",
            "root\u{3164}",
            "root\u{115f}",
            "root\u{180e}",
            "root\t",
            "root\u{0}",
            " root",
            "root ",
            "ro  ot",
            "ro\u{a0}ot",
            "ro\u{2003}ot",
            " ",
            "\u{1f600}",
            "\u{fb01}sh",
            "\u{1d535}",
            "\u{2460}",
            "ro\u{85}ot",
            "\u{e000}",
            "\u{fdd0}",
        ] {
            assert_eq!(canonical_username(hidden), Err(InvalidUsername::Characters), "{hidden:?}");
        }
        assert_eq!(canonical_username(""), Err(InvalidUsername::Length));
        assert_eq!(canonical_username(&"é".repeat(256)), Err(InvalidUsername::Length));
        assert!(canonical_username(&"é".repeat(255)).is_ok());
    }

    #[test]
    fn letters_that_read_as_others_are_refused() {
        for alike in [
            // Cyrillic among Latin, Greek among Latin, Cyrillic among Greek.
            "p\u{430}ypal",
            "adm\u{456}n",
            "r\u{3bf}ot",
            "\u{3c9}\u{436}",
            // All Cyrillic, all Greek, all Armenian: and all of it reads as Latin.
            "\u{455}\u{441}\u{43e}\u{440}\u{435}",
            "\u{430}\u{441}\u{435}",
            "\u{3bf}\u{3bd}",
            "\u{585}\u{578}",
            // Latin that reads as other Latin.
            "adm\u{131}n",
            "\u{251}dmin",
            // Letters made for phonetics.
            "\u{1d0f}k",
            // Digits of another script beside Latin.
            "root\u{967}",
        ] {
            let refused = canonical_username(alike);
            assert!(matches!(refused, Err(InvalidUsername::Confusable | InvalidUsername::Characters)), "{alike}: {refused:?}");
        }
    }

    #[test]
    fn parts_of_names_are_folded() {
        assert_eq!(folded("CAFE\u{301}"), "caf\u{e9}");
        assert_eq!(folded("\u{ff32}oot 100%"), "root 100%");
    }

    #[test]
    fn passwords_are_what_was_meant() {
        assert_eq!(canonical_password("pass123").as_deref(), Ok("pass123"));
        assert_eq!(canonical_password("a\u{a0}b\u{3000}c").as_deref(), Ok("a b c"));
        assert_eq!(canonical_password("\u{1f916}\u{a0}e\u{301}").as_deref(), Ok("\u{1f916} \u{e9}"), "an emoji younger than the tables");
        for bad in ["a\u{0}b", "tab\there", "\u{1f916}\n"] {
            assert_eq!(canonical_password(bad), Err(Untypable), "{bad:?}");
        }
    }
}
