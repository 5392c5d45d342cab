//! Secret settings: keys, and URLs that may contain a password. Printing them prints a placeholder.

use std::fmt;
use std::time::Duration;

use sea_orm::sqlx::ConnectOptions as _;
use sea_orm::sqlx::postgres::PgConnectOptions;
use sea_orm::{ConnectOptions, DbErr};
use serde::{Deserialize, Serialize, Serializer};

const HIDDEN: &str = "***";
/// The parameters that a PostgreSQL URL may have, besides `options[NAME]`. The driver logs other
/// ones with their values.
const POSTGRES_PARAMETERS: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];
/// Parts of a malformed URL shorter than this are left in messages.
const LEAST_PIECE: usize = 3;

/// A key.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The key itself, for sending it or comparing it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(HIDDEN)
    }
}

/// A database's URL. Prints as scheme, host, port and path where it is well formed, without users,
/// passwords and parameters.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(String);

impl From<String> for SecretUrl {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for SecretUrl {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted(&self.0))
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", redacted(&self.0))
    }
}

impl Serialize for SecretUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&redacted(&self.0))
    }
}

impl SecretUrl {
    /// The URL itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn is_sqlite(&self) -> bool {
        self.0.starts_with("sqlite:")
    }

    /// The options of a connection. The object-relational mapper shows its URL in tracing spans:
    /// for PostgreSQL it gets another one, and the driver's options separately. `statement_timeout`
    /// applies to PostgreSQL.
    ///
    /// # Errors
    /// It is not a database URL; the message quotes nothing of it.
    pub fn connect_options(
        &self,
        statement_timeout: Option<Duration>,
    ) -> Result<ConnectOptions, DbErr> {
        if self.is_sqlite() {
            let path = self.0.trim_start_matches("sqlite:").trim_start_matches("//");
            if path.split('/').next().is_some_and(|first| first.contains('@')) {
                return Err(DbErr::Custom(
                    "sqlite: takes the path of a file, such as sqlite:///var/lib/nyx/phoebe.db"
                        .into(),
                ));
            }
            return Ok(ConnectOptions::new(self.0.clone()));
        }
        let parsed = self.for_driver().parse::<PgConnectOptions>();
        let parsed = parsed
            .map_err(|error| DbErr::Custom(self.scrub(&error.to_string())))?
            .disable_statement_logging();
        let parsed = match statement_timeout {
            Some(timeout) => {
                parsed.options([("statement_timeout", timeout.as_millis().to_string())])
            }
            None => parsed,
        };
        let mut options = ConnectOptions::new("postgres://localhost");
        options.map_sqlx_postgres_opts(move |_| parsed.clone());
        Ok(options)
    }

    /// Without parameters that are unknown to the driver: it would log them.
    fn for_driver(&self) -> String {
        let Some((place, parameters)) = self.0.split_once('?') else { return self.0.clone() };
        let is_known = |parameter: &&str| {
            let name = decoded(parameter.split('=').next().unwrap_or_default());
            POSTGRES_PARAMETERS.contains(&name.as_str()) || name.starts_with("options[")
        };
        let known: Vec<&str> = parameters.split('&').filter(is_known).collect();
        if known.len() < parameters.split('&').count() {
            tracing::warn!(url = %self, "parameters that are not known are left out, expected {}", POSTGRES_PARAMETERS.join(", "));
        }
        let mark = if known.is_empty() { "" } else { "?" };
        format!("{place}{mark}{}", known.join("&"))
    }

    /// A driver's message, without what it may quote of this URL.
    pub fn scrub(&self, message: &str) -> String {
        let url = self.0.as_str();
        let mut hidden = vec![url];
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        if let Some((user, _)) = rest.rsplit_once('@') {
            hidden.extend([user, user.split_once(':').map_or("", |(_, password)| password)]);
        }
        if let Some((_, parameters)) = rest.split_once('?') {
            hidden.push(parameters);
            hidden.extend(
                parameters.split('&').map(|parameter| {
                    parameter.split_once('=').map_or(parameter, |(_, value)| value)
                }),
            );
        }
        if place(rest).is_none() && !self.is_sqlite() {
            // any part of it may be the password
            let pieces = rest.split(|c: char| c.is_whitespace() || "/?#@:=&;,'\"".contains(c));
            hidden.extend(pieces.filter(|piece| piece.chars().count() >= LEAST_PIECE));
        }
        let mut hidden: Vec<String> =
            hidden.into_iter().flat_map(|piece| [piece.to_owned(), decoded(piece)]).collect();
        // the longest first: a short one may be a part of it
        hidden.sort_by_key(|piece| std::cmp::Reverse(piece.len()));
        hidden
            .into_iter()
            .filter(|piece| !piece.is_empty())
            .fold(message.to_owned(), |message, piece| message.replace(&piece, HIDDEN))
    }
}

/// A URL for messages: scheme, host, port and path where they are certain, `***` instead of
/// everything else.
pub fn redacted(url: &str) -> String {
    if let Some(path) = url.strip_prefix("sqlite:").filter(|path| !path.contains('@')) {
        let (path, parameters) = path.split_once('?').unwrap_or((path, ""));
        return format!("sqlite:{path}{}", if parameters.is_empty() { "" } else { "?***" });
    }
    let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
        // the scheme may be missing: a host with a port contains no secret
        let bare = place(url).filter(|place| *place == url && place.contains(':'));
        return bare.map_or_else(|| HIDDEN.to_owned(), str::to_owned);
    };
    let Some(shown) = place(rest) else { return format!("{scheme}://{HIDDEN}") };
    let user = if rest.contains('@') { "***@" } else { "" };
    let parameters = if rest.contains(['?', '#']) { "?***" } else { "" };
    format!("{scheme}://{user}{shown}{parameters}")
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

/// `HOST[:PORT][/PATH]` of the part after a scheme; `None` where it is ambiguous.
fn place(rest: &str) -> Option<&str> {
    let before_parameters = rest.split(['?', '#']).next().unwrap_or_default();
    let place = match before_parameters.split_once('@') {
        // an unescaped delimiter would split the password
        Some((user, place))
            if !user.contains('/')
                && !place.contains('@')
                && !rest[before_parameters.len()..].contains('@') =>
        {
            place
        }
        Some(_) => return None,
        None if rest.contains('@') => return None,
        None => before_parameters,
    };
    let (address, path) = place.split_once('/').unwrap_or((place, ""));
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !address.ends_with(']') => (host, port),
        _ => (address, ""),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_host = host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:%".contains(c));
    let is_path = path.chars().all(|c| c.is_alphanumeric() || ".-_/%".contains(c));
    (is_host && is_path && port.chars().all(|c| c.is_ascii_digit())).then_some(place)
}

/// Decodes percent-encoding, and `+` as the space that it is in parameters.
fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after
            .get(..2)
            .filter(|_| byte == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(value) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            bytes.push(value);
            rest = &after[2..];
        } else {
            bytes.push(if byte == b'+' { b' ' } else { byte });
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_certain_is_shown_and_nothing_else() {
        for (url, shown) in [
            ("sqlite:///var/lib/nyx/phoebe.db", "sqlite:///var/lib/nyx/phoebe.db"),
            ("sqlite::memory:", "sqlite::memory:"),
            ("sqlite://x.db?key=hunter2", "sqlite://x.db?***"),
            ("sqlite://me:hunter2@x.db", "sqlite://***@x.db"),
            ("postgres://db.example:5432/nyx", "postgres://db.example:5432/nyx"),
            ("postgres://[::1]:5432/nyx", "postgres://[::1]:5432/nyx"),
            ("postgres://me:hunter2@db.example/nyx", "postgres://***@db.example/nyx"),
            ("postgres://me:hunter2@/nyx", "postgres://***@/nyx"),
            ("POSTGRES://me:hunter2@db.example/nyx", "POSTGRES://***@db.example/nyx"),
            ("postgres://me%3Ahunter2@db.example/nyx", "postgres://***@db.example/nyx"),
            ("postgres://db.example/nyx?password=hunter2", "postgres://db.example/nyx?***"),
            ("postgres://db.example/nyx?password=hunter2@home", "postgres://***"),
            ("postgres://me:hun@ter2@db.example/nyx", "postgres://***"),
            ("postgres://me:hun/ter2@db.example/nyx", "postgres://***"),
            ("postgres://me:hun?ter2@db.example/nyx", "postgres://***"),
            ("postgres://me:hun#ter2@db.example/nyx", "postgres://***"),
            ("postgres://me:hunter2", "postgres://***"),
            ("postgres://db.example/nyx password=hunter2", "postgres://***"),
            ("postgres:me:hunter2@db.example/nyx", "***"),
            ("host=db.example password=hunter2", "***"),
            ("me:hunter2@db.example", "***"),
            ("hunter2", "***"),
            ("localhost:6334", "localhost:6334"),
            ("http://localhost:6334", "http://localhost:6334"),
            ("", "***"),
        ] {
            assert_eq!(redacted(url), shown, "{url}");
            let (url, key) = (SecretUrl::from(url), Secret::from("hunter2"));
            let printed = format!(
                "{url} {url:?} {key:?} {} {}",
                serde_json::json!(url),
                serde_json::json!(key)
            );
            assert!(!printed.contains("hunter2") && !printed.contains("ter2"), "{printed}");
        }
    }

    #[test]
    fn a_driver_message_keeps_nothing_of_the_password() {
        for url in [
            "postgres://me:hunter2@db/nyx",
            "postgres://me:hun%74er2@db/nyx",
            "postgres://db/nyx?password=hunter2",
            "postgres://db/nyx?sslmode=hunter2",
            "postgres://db/nyx?hunter2",
            "postgres://db/nyx?a=b&password=hun%74er2",
            "host=db password=hunter2",
            "postgres://me:x/hunter2@db/nyx",
        ] {
            let message = SecretUrl::from(url)
                .scrub(&format!("cannot use {url}: unknown value \"hunter2\" and hun%74er2"));
            assert!(!message.contains("hunter2") || !url.contains("hunter2"), "{url}: {message}");
            assert!(
                !message.contains(url) && message.starts_with("cannot use"),
                "{url}: {message}"
            );
        }
        let message = SecretUrl::from("postgres://me:hun%74er2@db/nyx").scrub("hunter2, hun%74er2");
        assert_eq!(message, "***, ***");
    }

    #[test]
    fn a_driver_is_given_the_parameters_that_it_knows() {
        for (url, given) in [
            ("postgres://db/nyx", "postgres://db/nyx"),
            (
                "postgres://db/nyx?password=x&passwd=hunter2&sslmode=require",
                "postgres://db/nyx?password=x&sslmode=require",
            ),
            ("postgres://db/nyx?Password=hunter2", "postgres://db/nyx"),
            ("postgres://db/nyx?options[a]=b", "postgres://db/nyx?options[a]=b"),
        ] {
            assert_eq!(SecretUrl::from(url).for_driver(), given);
        }
    }
}
