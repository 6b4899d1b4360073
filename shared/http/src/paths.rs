//! Paths as Express takes them: `/Login`, `/login/` and `//login` are `/login`. The request itself is mended, so that no client has to
//! follow a redirect, which many do not for a POST.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    http::{Request, Uri, uri::PathAndQuery},
};
use tower::util::MapRequest;

/// A router that takes these paths however they are written. A path is written as in a document, `/history/{producer_id}`: what stands for
/// a parameter is left as it came. Any other path is left alone.
pub fn tolerant<P: AsRef<str>>(router: Router, paths: impl IntoIterator<Item = P>) -> Router {
    let known: Arc<[Known]> = paths.into_iter().map(|path| Known::new(path.as_ref())).collect();
    let mended = move |mut request: Request<Body>| {
        if let Some(uri) = mended(request.uri(), &known) {
            *request.uri_mut() = uri;
        }
        request
    };
    Router::new().fallback_service(MapRequest::new(router, mended))
}

/// Whether `path` is `known`, however it is written.
pub fn is_path(path: &str, known: &str) -> bool {
    Known::new(known).read(path).is_some()
}

/// A path, in segments; `None`: any.
struct Known(Vec<Option<String>>);

impl Known {
    fn new(path: &str) -> Self {
        Self(segments(path).map(|segment| (!segment.starts_with('{')).then(|| segment.to_owned())).collect())
    }

    /// The path as it is known, if it is this one.
    fn read(&self, path: &str) -> Option<String> {
        let mut given = segments(path);
        let mut read = String::with_capacity(path.len());
        for known in &self.0 {
            let given = given.next()?;
            read.push('/');
            match known {
                Some(known) if known.eq_ignore_ascii_case(given) => read.push_str(known),
                Some(_) => return None,
                None => read.push_str(given),
            }
        }
        given.next().is_none().then_some(read)
    }
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

/// The address with its path mended; `None`: it is as it should be, or not known.
fn mended(uri: &Uri, known: &[Known]) -> Option<Uri> {
    let path = uri.path();
    let is_odd = path.contains("//") || (path.len() > 1 && path.ends_with('/')) || path.bytes().any(|byte| byte.is_ascii_uppercase());
    if !is_odd {
        return None;
    }
    let path = known.iter().find_map(|known| known.read(path)).filter(|read| !read.is_empty() && read != path)?;
    let whole = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(whole).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(uri: &str) -> String {
        let known = ["/login", "/history/{producer_id}", "/accounts/{id}/revoke", "/cursors/{name}", "/api/auth/login"].map(Known::new);
        let uri: Uri = uri.parse().unwrap();
        mended(&uri, &known).unwrap_or(uri).to_string()
    }

    #[test]
    fn a_path_is_known_however_it_is_written() {
        for (written, path) in [
            ("/login", "/login"),
            ("/login/", "/login"),
            ("/Login", "/login"),
            ("//login", "/login"),
            ("/LOGIN//?next=/A//b/", "/login?next=/A//b/"),
            ("/api//Auth/login/", "/api/auth/login"),
            ("/History/7/?from=T", "/history/7?from=T"),
            ("https://host:1/Accounts/7//revoke", "https://host:1/accounts/7/revoke"),
            // A parameter is the client's own.
            ("/Cursors/My%20Name", "/cursors/My%20Name"),
            // Unknown paths are left alone.
            ("/", "/"),
            ("//", "//"),
            ("/api-docs/", "/api-docs/"),
            ("/assets/Index-9X.js", "/assets/Index-9X.js"),
            ("/login/x", "/login/x"),
        ] {
            assert_eq!(read(written), path, "{written}");
        }
        assert!(is_path("//WT/", "/wt") && !is_path("/wt/x", "/wt") && !is_path("/", "/wt"));
    }
}
