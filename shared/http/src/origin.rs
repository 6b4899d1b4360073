//! Which pages may connect where a browser's own rules do not ask: WebSocket and WebTransport; and the host that is called.

use std::sync::Arc;

use axum::http::{HeaderMap, Uri, header};
use motience_settings::env::Value;
use parking_lot::RwLock;

use super::ApiError;

/// Origins whose pages may connect. Clones are one list, which may be set anew.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    /// In the one form of [`canonical`]; none: any may connect, as tokens and not cookies say who comes.
    allowed: Arc<RwLock<Vec<String>>>,
}

impl Origins {
    /// Allows what `other` does, from now on.
    pub fn set(&self, other: &Self) {
        let allowed = other.allowed.read().clone();
        *self.allowed.write() = allowed;
    }
}

impl Value for Origins {
    /// A list; `*` alone, and nothing at all, are any.
    fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::default());
        }
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let origin =
            |part| canonical(part).ok_or_else(|| format!("must be origins such as https://app.example, or * alone; '{part}' is not"));
        Ok(Self { allowed: Arc::new(RwLock::new(parts.map(origin).collect::<Result<_, _>>()?)) })
    }
}

/// Refuses a page of an origin that is not allowed.
pub fn check_origin(headers: &HeaderMap, origins: &Origins) -> Result<(), ApiError> {
    // Only browsers send an origin; other clients are not what the list is about.
    let allowed = origins.allowed.read();
    let Some(origin) = headers.get(header::ORIGIN).filter(|_| !allowed.is_empty()) else { return Ok(()) };
    let origin = origin.to_str().ok().and_then(canonical);
    if origin.is_some_and(|origin| allowed.contains(&origin)) {
        Ok(())
    } else {
        Err(ApiError::forbidden("Pages of this origin may not connect.").with_code("origin_refused"))
    }
}

/// The host that a request calls, without its port: HTTP/2 and 3 name it in the URI, HTTP/1.1 in a header.
pub fn called_host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    uri.host().or_else(|| headers.get(header::HOST)?.to_str().ok().map(without_port))
}

/// A host without the port behind it. That of `[::1]:3010` begins after the bracket.
pub fn without_port(host: &str) -> &str {
    host.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or(host, |(name, _)| name)
}

/// `scheme://host[:port]` as browsers write it: in small letters, without the scheme's own port and a slash at the end. `null` is the
/// origin of pages that have none.
fn canonical(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    let text = text.strip_suffix('/').unwrap_or(&text);
    if text == "null" {
        return Some(text.to_owned());
    }
    let (scheme, host) = text.split_once("://")?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
    let host = match scheme {
        "https" => host.strip_suffix(":443").unwrap_or(host),
        "http" => host.strip_suffix(":80").unwrap_or(host),
        _ => host,
    };
    let is_host = !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic() && !b"/*@?#\\,".contains(&b));
    (is_scheme && is_host).then(|| format!("{scheme}://{host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(list: &str) -> Result<Origins, String> {
        Origins::parse(list.trim())
    }

    fn may_connect(list: &str, origin: &str) -> bool {
        let headers = HeaderMap::from_iter([(header::ORIGIN, origin.parse().unwrap())]);
        check_origin(&headers, &origins(list).unwrap()).is_ok()
    }

    #[test]
    fn origins_are_compared_as_what_they_name() {
        for list in ["https://app.example", "https://App.Example/", "HTTPS://app.example:443", "https://b.example, https://app.example/"] {
            for origin in ["https://app.example", "https://APP.example", "https://app.example:443"] {
                assert!(may_connect(list, origin), "{list} {origin}");
            }
            for origin in
                ["http://app.example", "https://app.example:8443", "https://app.example.evil", "https://evil", "null", "app.example"]
            {
                assert!(!may_connect(list, origin), "{list} {origin}");
            }
        }
        assert!(may_connect("null", "null"));
        assert!(may_connect("capacitor://localhost", "capacitor://localhost"));
        for any in ["*", " * ", ""] {
            assert!(may_connect(any, "https://any.example"), "{any:?}");
        }
        assert!(check_origin(&HeaderMap::new(), &origins("https://app.example").unwrap()).is_ok(), "no browser");
    }

    #[test]
    fn a_list_that_is_set_anew_holds_for_all_its_clones() {
        let (list, page) =
            (origins("https://a.example").unwrap(), HeaderMap::from_iter([(header::ORIGIN, "https://b.example".parse().unwrap())]));
        let clone = list.clone();
        assert!(check_origin(&page, &clone).is_err());
        list.set(&origins("https://b.example").unwrap());
        assert!(check_origin(&page, &clone).is_ok());
    }

    #[test]
    fn what_would_never_match_is_refused_at_start() {
        for wrong in
            ["app.example", "https://", "https://app.example/path", "https://*.example", "*,https://app.example", "https://a@b", "://a"]
        {
            assert!(origins(wrong).is_err(), "{wrong}");
        }
    }
}
