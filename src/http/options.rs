//! `[http]`: the listener's address, keys and limits.

use std::net::IpAddr;

use nyx_actors::secret::Secret;
use serde::{Deserialize, Serialize};

/// The settings section `[http]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpOptions {
    /// An address or a name; addresses other than loopback need `api_keys` and an `admin_key`.
    pub host: String,
    /// 0 binds a free port.
    pub port: u16,
    /// Keys for `Authorization: Bearer KEY`. Empty: every client on this machine is accepted.
    pub api_keys: Vec<Secret>,
    /// The key for `/admin`; must not be one of `api_keys`.
    pub admin_key: Option<Secret>,
    /// Maximum size of a request body in bytes; a larger one gets 413.
    pub max_body_bytes: usize,
    /// Seconds that a client may take to send a request's head, and again its body.
    pub client_timeout_s: u64,
    /// Seconds that an idle connection is kept open.
    pub keep_alive_s: u64,
    /// Seconds that a closing connection may take to disconnect.
    pub client_disconnect_s: u64,
    /// Seconds that connections may take to finish at shutdown.
    pub shutdown_timeout_s: u64,
    /// Maximum connections per thread, streams and WebSockets included.
    pub max_connections: usize,
    /// HTTP worker threads; they do no heavy work.
    pub workers: usize,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 8080,
            api_keys: Vec::new(),
            admin_key: None,
            max_body_bytes: 2 << 20,
            client_timeout_s: 30,
            keep_alive_s: 75,
            client_disconnect_s: 5,
            shutdown_timeout_s: 10,
            max_connections: 4096,
            workers: 2,
        }
    }
}

/// An invalid setting of `[http]`. Keys are never printed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpOptionsError {
    #[error("{key} is {value}, expected {expected}")]
    BadValue { key: &'static str, value: String, expected: &'static str },
    #[error(
        "{key} holds an unusable key: expected printable ASCII without spaces, at least one character"
    )]
    BadKey { key: &'static str },
    #[error(
        "http.host is {host:?}, which is not loopback, and http.api_keys is empty: set http.api_keys, or listen on 127.0.0.1"
    )]
    OpenToTheWorld { host: String },
    #[error(
        "http.host is {host:?}, which is not loopback, and http.admin_key is not set: set one, or listen on 127.0.0.1"
    )]
    AdminOpenToTheWorld { host: String },
    #[error("http.admin_key is also one of http.api_keys: admin has its own key")]
    SharedAdminKey,
}

impl HttpOptions {
    /// Whether `host` is a loopback address. Names other than `localhost` are not, since their
    /// addresses may change.
    pub fn is_loopback(&self) -> bool {
        is_loopback_name(&self.host)
    }

    /// # Errors
    /// The first setting that is out of range, or that would listen on another address than
    /// loopback without keys.
    pub fn validate(&self) -> Result<(), HttpOptionsError> {
        let bad =
            |key, value: String, expected| Err(HttpOptionsError::BadValue { key, value, expected });
        if self.host.trim().is_empty() {
            return bad("http.host", format!("{:?}", self.host), "an address such as 127.0.0.1");
        }
        if !(1024..=1 << 30).contains(&self.max_body_bytes) {
            return bad(
                "http.max_body_bytes",
                self.max_body_bytes.to_string(),
                "1024 to 1073741824",
            );
        }
        if !(1..=256).contains(&self.workers) {
            return bad("http.workers", self.workers.to_string(), "1 to 256");
        }
        if self.max_connections == 0 {
            return bad("http.max_connections", "0".into(), "at least 1");
        }
        for (key, seconds) in [
            ("http.client_timeout_s", self.client_timeout_s),
            ("http.keep_alive_s", self.keep_alive_s),
            ("http.client_disconnect_s", self.client_disconnect_s),
        ] {
            if !(1..=3600).contains(&seconds) {
                return bad(key, seconds.to_string(), "1 to 3600");
            }
        }
        if !self.api_keys.iter().all(|key| is_usable_key(key.expose())) {
            return Err(HttpOptionsError::BadKey { key: "http.api_keys" });
        }
        if let Some(admin) = &self.admin_key {
            if !is_usable_key(admin.expose()) {
                return Err(HttpOptionsError::BadKey { key: "http.admin_key" });
            }
            if self.api_keys.contains(admin) {
                return Err(HttpOptionsError::SharedAdminKey);
            }
        }
        if !self.is_loopback() {
            if self.api_keys.is_empty() {
                return Err(HttpOptionsError::OpenToTheWorld { host: self.host.clone() });
            }
            if self.admin_key.is_none() {
                return Err(HttpOptionsError::AdminOpenToTheWorld { host: self.host.clone() });
            }
        }
        Ok(())
    }
}

/// `localhost`, names under it, and loopback addresses, with or without brackets.
pub(crate) fn is_loopback_name(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let name = bare.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

fn is_usable_key(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_needs_no_keys_and_other_addresses_need_both() {
        assert_eq!(HttpOptions::default().validate(), Ok(()));
        for host in ["localhost", "::1", "127.0.0.2", "[::1]", "::ffff:127.0.0.1"] {
            assert_eq!(
                HttpOptions { host: host.into(), ..HttpOptions::default() }.validate(),
                Ok(()),
                "{host}"
            );
        }
        for host in ["0.0.0.0", "::", "192.168.0.1", "nyx.example", "localhost.evil.example"] {
            let open = HttpOptions { host: host.into(), ..HttpOptions::default() };
            assert_eq!(
                open.validate(),
                Err(HttpOptionsError::OpenToTheWorld { host: host.into() })
            );
            let keyed = HttpOptions { api_keys: vec!["k".into()], ..open };
            assert_eq!(
                keyed.validate(),
                Err(HttpOptionsError::AdminOpenToTheWorld { host: host.into() })
            );
            let both = HttpOptions { admin_key: Some("a".into()), ..keyed };
            assert_eq!(both.validate(), Ok(()));
        }
    }

    #[test]
    fn names_the_setting_that_is_out_of_range() {
        let wrong = [
            HttpOptions { workers: 0, ..HttpOptions::default() },
            HttpOptions { max_body_bytes: 1, ..HttpOptions::default() },
            HttpOptions { keep_alive_s: 0, ..HttpOptions::default() },
            HttpOptions { api_keys: vec!["".into()], ..HttpOptions::default() },
            HttpOptions { admin_key: Some("two words".into()), ..HttpOptions::default() },
            HttpOptions {
                api_keys: vec!["same".into()],
                admin_key: Some("same".into()),
                ..HttpOptions::default()
            },
        ];
        let named = [
            "http.workers",
            "http.max_body_bytes",
            "http.keep_alive_s",
            "http.api_keys",
            "http.admin_key",
            "http.admin_key",
        ];
        for (options, key) in wrong.iter().zip(named) {
            let message = options.validate().unwrap_err().to_string();
            assert!(message.contains(key), "{message}");
        }
    }

    #[test]
    fn keys_do_not_show_in_debug_output() {
        let options = HttpOptions {
            api_keys: vec!["hush-1".into()],
            admin_key: Some("hush-2".into()),
            ..HttpOptions::default()
        };
        assert!(!format!("{options:?}").contains("hush"));
    }
}
