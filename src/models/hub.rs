//! Models from the Hugging Face hub's HTTP API. The token is `HF_TOKEN`, else the one of
//! `huggingface-cli login`; `HF_ENDPOINT` overrides the hub's address.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::ProgressBar;
use nyx_actors::secret::redacted;
use serde::Deserialize;
use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

use super::error::ModelError;
use super::files::{Selection, select};
use super::progress::Progress;

const HUB: &str = "https://huggingface.co";
/// Attempts of a request before the hub counts as unreachable, and of resuming an interrupted
/// transfer.
const ATTEMPTS: usize = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Timeout for connecting and for response headers; the body of a large file has no timeout.
const PATIENCE: Duration = Duration::from_secs(30);
const BUFFER: usize = 256 << 10;

/// One repository at one revision.
#[derive(Debug, Clone, Copy)]
pub(super) struct Repository<'a> {
    pub(super) owner: &'a str,
    pub(super) name: &'a str,
    pub(super) revision: Option<&'a str>,
    /// The GGUF file to fetch.
    pub(super) file: Option<&'a str>,
}

/// The hub's listing of a repository at a revision.
#[derive(Deserialize)]
struct Listing {
    /// The commit hash.
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// Downloads the model's files into `into`; `scratch` is an empty folder. `endpoint` overrides
/// `HF_ENDPOINT`.
pub(super) fn fetch(
    repository: Repository<'_>,
    endpoint: Option<&str>,
    scratch: &Path,
    into: &Path,
    progress: Progress,
) -> Result<(), ModelError> {
    let hub = Hub::new(repository, endpoint);
    let listing = hub.listing()?;
    let files: Vec<String> = listing.siblings.into_iter().map(|file| file.rfilename).collect();
    let no_model = |reason| ModelError::NoModelInside { package: hub.name(), reason };
    let Selection { folder, files } = select(&files, repository.file).map_err(no_model)?;
    // the listing's commit, so that a push in between does not mix two revisions
    let revision = listing
        .sha
        .or_else(|| repository.revision.map(str::to_owned))
        .unwrap_or_else(|| "main".to_owned());
    for file in files {
        let inside = file.strip_prefix(&folder).unwrap_or(&file);
        let bar = progress.bar(inside, 0);
        let part = scratch.join("part");
        hub.download(&revision, &file, &part, &bar)?;
        bar.finish();
        let target = into.join(inside);
        std::fs::rename(&part, &target).map_err(|error| ModelError::io(target, &error))?;
    }
    Ok(())
}

struct Hub<'a> {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    repository: Repository<'a>,
}

impl<'a> Hub<'a> {
    fn new(repository: Repository<'a>, endpoint: Option<&str>) -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let endpoint = endpoint
            .map(str::to_owned)
            .or_else(|| variable("HF_ENDPOINT"))
            .unwrap_or_else(|| HUB.to_owned());
        let kept = variable("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| {
            let home = variable("HF_HOME").map(PathBuf::from);
            Some(
                home.or_else(|| {
                    Some(PathBuf::from(variable("HOME")?).join(".cache").join("huggingface"))
                })?
                .join("token"),
            )
        });
        let token = variable("HF_TOKEN").or_else(|| std::fs::read_to_string(kept?).ok());
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE));
        Self {
            agent: config.build().into(),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token,
            repository,
        }
    }

    fn name(&self) -> String {
        format!("hf:{}/{}", self.repository.owner, self.repository.name)
    }

    fn listing(&self) -> Result<Listing, ModelError> {
        let Repository { owner, name, revision, .. } = self.repository;
        let at = revision
            .map(|revision| format!("/revision/{}", escaped(revision, "")))
            .unwrap_or_default();
        let what = || match revision {
            Some(revision) => {
                format!("repository {owner}/{name}, or no revision {revision} of it,")
            }
            None => format!("repository {owner}/{name}"),
        };
        let mut answer =
            self.get(&format!("{}/api/models/{owner}/{name}{at}", self.endpoint), 0, what)?;
        let text = answer.body_mut().read_to_string().map_err(|error| self.away(&error))?;
        serde_json::from_str(&text)
            .map_err(|error| self.odd(format!("its listing cannot be read: {error}")))
    }

    /// Resumes an interrupted transfer from the bytes already received.
    fn download(
        &self,
        revision: &str,
        file: &str,
        part: &Path,
        bar: &ProgressBar,
    ) -> Result<(), ModelError> {
        let Repository { owner, name, .. } = self.repository;
        let url = format!(
            "{}/{owner}/{name}/resolve/{}/{}",
            self.endpoint,
            escaped(revision, ""),
            escaped(file, "/")
        );
        let io = |error: std::io::Error| ModelError::io(part, &error);
        let mut out = File::create(part).map_err(io)?;
        let mut have = 0_u64;
        let mut broken = None;
        for _ in 0..ATTEMPTS {
            let answer = self.get(&url, have, || format!("file {file} in {}", self.name()))?;
            if answer.status() != StatusCode::PARTIAL_CONTENT {
                out.set_len(0).map_err(io)?;
                have = 0;
            }
            let length = answer
                .headers()
                .get(header::CONTENT_LENGTH)
                .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
            let total = length.map(|length| have + length);
            total.iter().for_each(|total| bar.set_length(*total));
            std::io::Seek::seek(&mut out, std::io::SeekFrom::Start(have)).map_err(io)?;
            match copy(answer.into_body(), &mut out, &mut have, bar).map_err(io)? {
                None if total.is_none_or(|total| total == have) => return Ok(()),
                ended => {
                    broken = Some(
                        ended.unwrap_or_else(|| format!("the transfer ended after {have} bytes")),
                    )
                }
            }
        }
        Err(ModelError::HubUnreachable {
            endpoint: redacted(&self.endpoint),
            reason: one_line(&broken.unwrap_or_default()),
        })
    }

    /// Returns a response with status 2xx; retries failures that may be temporary.
    fn get(
        &self,
        url: &str,
        from: u64,
        what: impl Fn() -> String,
    ) -> Result<Response<Body>, ModelError> {
        let mut pause = FIRST_PAUSE;
        let mut tries = 1;
        loop {
            let mut request = self
                .agent
                .get(url)
                .header(header::USER_AGENT, concat!("nyx/", env!("CARGO_PKG_VERSION")));
            if let Some(token) = &self.token {
                // sent only to the hub: a redirect to a content server drops it
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if from > 0 {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            let failure = match request.call() {
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                Ok(answer) => match answer.status() {
                    status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                        return Err(ModelError::HubRefused {
                            repository: self.name(),
                            reason: format!("status {}", status.as_u16()),
                        });
                    }
                    StatusCode::NOT_FOUND => return Err(ModelError::NotOnHub { what: what() }),
                    status
                        if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() =>
                    {
                        self.odd(format!("the hub answered {url} with status {}", status.as_u16()))
                    }
                    status => {
                        return Err(self.odd(format!(
                            "the hub answered {url} with status {}",
                            status.as_u16()
                        )));
                    }
                },
                Err(error) => self.away(&error),
            };
            if tries == ATTEMPTS {
                return Err(failure);
            }
            tries += 1;
            std::thread::sleep(pause);
            pause *= 2;
        }
    }

    fn away(&self, error: &ureq::Error) -> ModelError {
        ModelError::HubUnreachable {
            endpoint: redacted(&self.endpoint),
            reason: one_line(&error.to_string()),
        }
    }

    fn odd(&self, reason: String) -> ModelError {
        ModelError::Hub { repository: self.name(), reason: one_line(&reason) }
    }
}

/// Copies the body to the file; `Some` is the reason of an interrupted transfer, an error is a
/// failed write.
fn copy(
    body: Body,
    out: &mut File,
    have: &mut u64,
    bar: &ProgressBar,
) -> std::io::Result<Option<String>> {
    let mut reader = body.into_reader();
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = match reader.read(&mut buffer) {
            Ok(0) => return out.sync_data().map(|()| None),
            Ok(read) => read,
            Err(error) => return Ok(Some(error.to_string())),
        };
        out.write_all(&buffer[..read])?;
        *have += read as u64;
        bar.set_position(*have);
    }
}

/// Percent-encodes a part of a URL's path, all but unreserved characters and `kept`.
fn escaped(text: &str, kept: &str) -> String {
    text.chars().fold(String::new(), |mut url, c| {
        if c.is_ascii_alphanumeric() || "-._~".contains(c) || kept.contains(c) {
            url.push(c);
        } else {
            let mut bytes = [0; 4];
            url.extend(c.encode_utf8(&mut bytes).bytes().map(|byte| format!("%{byte:02X}")));
        }
        url
    })
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
