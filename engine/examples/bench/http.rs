//! The subset of HTTP/1.1 that a benchmark on loopback needs: JSON requests and responses over a
//! keep-alive connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::Fallible;

/// Request timeout: longer than any request of the benchmark takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);

pub struct Connection {
    port: u16,
    stream: Option<BufReader<TcpStream>>,
}

impl Connection {
    pub fn new(port: u16) -> Self {
        Self { port, stream: None }
    }

    /// Opens the connection if it is closed: servers close connections that idled or served many
    /// requests. Fails while the server is not ready.
    pub fn ready(&mut self) -> Fallible<()> {
        if self.get("/health").is_err() {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            self.stream = Some(BufReader::new(stream));
            self.get("/health")?;
        }
        Ok(())
    }

    fn get(&mut self, path: &str) -> Fallible<Value> {
        self.exchange(format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").as_bytes())
    }

    pub fn post(&mut self, path: &str, body: &str) -> Fallible<Value> {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.exchange(head.as_bytes())
    }

    fn exchange(&mut self, request: &[u8]) -> Fallible<Value> {
        let mut stream = self.stream.take().ok_or("not connected")?;
        stream.get_mut().write_all(request)?;
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let status = line
            .split(' ')
            .nth(1)
            .ok_or_else(|| format!("the answer begins with {line:?}"))?
            .to_owned();
        let mut length = None;
        loop {
            line.clear();
            stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.trim().parse()?);
            }
        }
        let mut body = vec![0; length.ok_or("an answer without a length")?];
        stream.read_exact(&mut body)?;
        // a connection on which an exchange failed is not reused
        self.stream = Some(stream);
        if status != "200" {
            return Err(format!("status {status}: {}", String::from_utf8_lossy(&body)).into());
        }
        Ok(serde_json::from_slice(&body)?)
    }
}
