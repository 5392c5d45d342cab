//! What is counted for `/metrics`. OWNER: main.

/// All metric families of this process.
#[derive(Debug)]
pub struct Metrics {}

impl Metrics {
    /// The OpenMetrics text.
    pub fn encode(&self) -> String {
        todo!()
    }
    /// One HTTP request answered.
    pub fn http_request(&self, _method: &str, _route: &str, _status: u16, _seconds: f64) {
        todo!()
    }
}
