//! Authorization: bearer keys; without keys, requests from other origins to a loopback listener are
//! rejected.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap};
use actix_web::http::uri::Authority;
use sha2::{Digest, Sha256};

use super::error::ApiError;
use super::options::{HttpOptions, is_loopback_name};

/// Which clients may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// All clients: health and the API's description.
    Open,
    /// Clients with an API key, if keys are set.
    Caller,
    /// Clients with the admin key, if one is set; otherwise as `Caller`.
    Admin,
    /// All clients on loopback; elsewhere those with either key.
    Metrics,
}

/// Keys as digests: a byte-by-byte comparison of digests leaks nothing about the key, not even its
/// length.
#[derive(Debug, Clone)]
pub struct Keys {
    api: Vec<[u8; 32]>,
    admin: Option<[u8; 32]>,
    loopback: bool,
}

impl Keys {
    pub fn new(options: &HttpOptions) -> Self {
        Self {
            api: options.api_keys.iter().map(|key| digest(key.expose())).collect(),
            admin: options.admin_key.as_ref().map(|key| digest(key.expose())),
            loopback: options.is_loopback(),
        }
    }

    /// # Errors
    /// 401 without the right key; 403 for a request from another origin if no keys are set.
    pub fn check(&self, access: Access, headers: &HeaderMap) -> Result<(), ApiError> {
        if self.api.is_empty() && access != Access::Open {
            reject_cross_origin(headers)?;
        }
        let given = bearer(headers);
        let api = given.is_some_and(|key| self.is_api(key));
        let admin = given.is_some_and(|key| self.is_admin(key));
        let (allowed, expected_key) = match access {
            Access::Open => (true, ""),
            Access::Caller => (self.api.is_empty() || api, "one of http.api_keys"),
            Access::Admin if self.admin.is_some() => (admin, "http.admin_key"),
            Access::Admin => (self.api.is_empty() || api, "one of http.api_keys"),
            Access::Metrics => {
                (self.loopback || api || admin, "one of http.api_keys or http.admin_key")
            }
        };
        if allowed {
            return Ok(());
        }
        let (code, problem) = match given {
            None => ("missing_api_key", "no key was given"),
            Some(_) => ("invalid_api_key", "the key given is not valid here"),
        };
        let message =
            format!("{problem}: send the header 'Authorization: Bearer KEY' with {expected_key}");
        Err(ApiError::new(StatusCode::UNAUTHORIZED, code, message)
            .with_header(header::WWW_AUTHENTICATE, "Bearer"))
    }

    /// The client's id for fair scheduling: a prefix of the key's digest. Empty without a known
    /// key, so that a client gets no larger share by inventing keys.
    pub fn client(&self, headers: &HeaderMap) -> Arc<str> {
        let name = |key| hex::encode(&digest(key)[..8]);
        bearer(headers).filter(|key| self.is_api(key)).map_or_else(String::new, name).into()
    }

    fn is_api(&self, key: &str) -> bool {
        let given = digest(key);
        // every key is compared, so that the time does not depend on which one matches
        self.api.iter().fold(false, |found, known| found | same(known, &given))
    }

    fn is_admin(&self, key: &str) -> bool {
        self.admin.as_ref().is_some_and(|known| same(known, &digest(key)))
    }
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// Without keys the only protection is the loopback address, which a browser on this machine can
/// reach: a page of another origin could post to us, or reach us under its own name (DNS
/// rebinding). `Origin` and `Host` identify such requests.
fn reject_cross_origin(headers: &HeaderMap) -> Result<(), ApiError> {
    let refuse = |what: &str, value: &str| {
        let message = format!(
            "{what} is {value:?}: without http.api_keys only loopback Host and Origin headers are accepted; set http.api_keys"
        );
        Err(ApiError::new(StatusCode::FORBIDDEN, "foreign_origin", message))
    };
    for (name, what) in [(header::HOST, "Host"), (header::ORIGIN, "Origin")] {
        for value in headers.get_all(name) {
            let text = value.to_str().unwrap_or("?");
            let authority = match what {
                "Origin" => text.split_once("://").map_or("", |(_, rest)| rest),
                _ => text,
            };
            let local = authority
                .parse::<Authority>()
                .is_ok_and(|authority| is_loopback_name(authority.host()));
            if !local {
                return refuse(what, text);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;
    use nyx_actors::secret::Secret;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    fn with_key(key: &str) -> HeaderMap {
        headers(&[(header::HOST, "nyx.example"), (header::AUTHORIZATION, &format!("Bearer {key}"))])
    }

    fn keys(api: &[&str], admin: Option<&str>, host: &str) -> Keys {
        Keys::new(&HttpOptions {
            host: host.into(),
            api_keys: api.iter().map(|key| Secret::from(*key)).collect(),
            admin_key: admin.map(Secret::from),
            ..HttpOptions::default()
        })
    }

    fn status(result: Result<(), ApiError>) -> u16 {
        result.map_or_else(|error| error.status.as_u16(), |()| 200)
    }

    #[test]
    fn keys_grant_only_their_access_level() {
        let keys = keys(&["one", "two"], Some("boss"), "0.0.0.0");
        let none = headers(&[(header::HOST, "nyx.example")]);
        for (access, key, expected) in [
            (Access::Open, None, 200),
            (Access::Caller, None, 401),
            (Access::Caller, Some("one"), 200),
            (Access::Caller, Some("two"), 200),
            (Access::Caller, Some("on"), 401),
            (Access::Caller, Some("one "), 200),
            (Access::Caller, Some("boss"), 401),
            (Access::Admin, Some("one"), 401),
            (Access::Admin, Some("boss"), 200),
            (Access::Metrics, None, 401),
            (Access::Metrics, Some("one"), 200),
            (Access::Metrics, Some("boss"), 200),
        ] {
            let sent = key.map_or_else(|| none.clone(), with_key);
            assert_eq!(status(keys.check(access, &sent)), expected, "{access:?} with {key:?}");
        }
        let basic = headers(&[(header::AUTHORIZATION, "Basic one")]);
        assert_eq!(status(keys.check(Access::Caller, &basic)), 401);
    }

    #[test]
    fn callers_are_named_by_known_keys_alone() {
        let keys = keys(&["one", "two"], Some("boss"), "127.0.0.1");
        let client = |key: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(
                header::AUTHORIZATION,
                HeaderValue::from_str(&format!("Bearer {key}")).unwrap(),
            );
            keys.client(&headers)
        };
        assert_eq!(
            (client("one").len(), &*client("three"), &*keys.client(&HeaderMap::new())),
            (16, "", "")
        );
        assert!(
            client("one") != client("two")
                && client("one") == client("one")
                && !client("one").contains("one")
        );
    }

    #[test]
    fn loopback_without_keys_is_open_but_not_to_foreign_pages() {
        let keys = keys(&[], None, "127.0.0.1");
        let cases: &[(&[(header::HeaderName, &str)], u16)] = &[
            (&[], 200),
            (&[(header::HOST, "127.0.0.1:8080")], 200),
            (&[(header::HOST, "localhost:8080"), (header::ORIGIN, "http://localhost:3000")], 200),
            (&[(header::HOST, "[::1]:8080")], 200),
            (&[(header::HOST, "evil.example:8080")], 403),
            (&[(header::HOST, "localhost"), (header::ORIGIN, "https://evil.example")], 403),
            (&[(header::HOST, "localhost"), (header::ORIGIN, "null")], 403),
            (
                &[(header::HOST, "localhost"), (header::ORIGIN, "http://localhost.evil.example")],
                403,
            ),
            (
                &[(header::HOST, "localhost"), (header::ORIGIN, "http://localhost@evil.example")],
                403,
            ),
        ];
        for (pairs, expected) in cases {
            for access in [Access::Caller, Access::Admin, Access::Metrics] {
                assert_eq!(
                    status(keys.check(access, &headers(pairs))),
                    *expected,
                    "{pairs:?} at {access:?}"
                );
            }
            assert_eq!(status(keys.check(Access::Open, &headers(pairs))), 200);
        }
    }

    #[test]
    fn an_admin_key_without_api_keys_protects_only_admin_routes() {
        let keys = keys(&[], Some("boss"), "127.0.0.1");
        let local = headers(&[(header::HOST, "localhost")]);
        assert_eq!(status(keys.check(Access::Caller, &local)), 200);
        assert_eq!(status(keys.check(Access::Admin, &local)), 401);
        let boss = headers(&[(header::HOST, "localhost"), (header::AUTHORIZATION, "bearer boss")]);
        assert_eq!(status(keys.check(Access::Admin, &boss)), 200);
    }
}
