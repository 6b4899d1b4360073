//! QR codes as SVG images.

use std::fmt::Write as _;

use qrcodegen::{QrCode, QrCodeEcc};

/// Empty modules around the code, as ISO/IEC 18004 wants them.
const BORDER: i32 = 4;

/// A text as a QR code; `None` for one that is too long.
pub(super) fn svg(text: &str) -> Option<String> {
    let code = QrCode::encode_text(text, QrCodeEcc::Medium).ok()?;
    let size = code.size() + 2 * BORDER;
    let mut path = String::new();
    for y in 0..code.size() {
        for x in (0..code.size()).filter(|&x| code.get_module(x, y)) {
            // Writing to memory cannot fail.
            let _ = write!(path, "M{},{}h1v1h-1z", x + BORDER, y + BORDER);
        }
    }
    Some(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {size} {size}\"><path fill=\"#fff\" d=\"M0,0h{size}v{size}h-{size}z\"/>\
         <path d=\"{path}\"/></svg>"
    ))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_code_is_an_image() {
        let svg = super::svg("mte_5f0c6a1e9b2d4c3f8a7b6c5d4e3f2a1b").unwrap();
        // Version 3, 29 modules and the border; its corners are finder patterns.
        assert!(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 37 37\">") && svg.contains("M4,4h1"), "{svg}");
        assert!(svg.len() < 16 * 1024 && super::svg(&"x".repeat(10_000)).is_none());
    }
}
