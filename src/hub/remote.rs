//! The Hub over the network: what a repository holds, and its files, a part after the other. The
//! token goes to the Hub's own host alone.

use std::io::Read;
use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use serde::Deserialize;
use ureq::Agent;
use ureq::Body;
use ureq::http::Response;
use ureq::http::Uri;
use ureq::http::header::HeaderMap;

use crate::endpoint::key::Key;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::files;
use crate::files::AppendLog;
use crate::hub::cache::is_hash;

/// The Hub where the environment names none.
const HUB: &str = "https://huggingface.co";
/// Redirects that are followed for one file.
const MAX_REDIRECTS: usize = 8;
/// Longest list of files, in bytes.
const LONGEST_LIST: u64 = 16 << 20;
/// Bytes that are read from the network at once.
const CHUNK: usize = 256 << 10;
/// Time without a byte after which a download has failed, where the environment says no other.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Directions after a download that failed.
const HINT: &str = "check the id and the network, or give the folder of a checkpoint; what was downloaded before is kept";

/// A Hub and what may be said to it.
pub struct Remote {
    endpoint: String,
    origin: Origin,
    token: Option<Key>,
    timeout: Duration,
    agent: Agent,
}

/// Scheme, host and port: where a token may go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    /// The origin of an absolute URL; none where it is of another scheme or names a user.
    fn of(url: &Uri) -> Option<Self> {
        let scheme = url.scheme_str()?.to_ascii_lowercase();
        let usual = match scheme.as_str() {
            "https" => 443,
            "http" => 80,
            _ => return None,
        };
        let authority = url.authority()?;
        if authority.as_str().contains('@') {
            return None;
        }
        Some(Self {
            scheme,
            host: authority.host().to_ascii_lowercase(),
            port: authority.port_u16().unwrap_or(usual),
        })
    }
}

/// What the Hub says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The commit that it is of.
    pub commit: String,
    /// The hash of its contents.
    pub etag: String,
    /// Its length in bytes.
    pub size: u64,
}

#[derive(Deserialize)]
struct Listing {
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// An answer, and the headers that the Hub itself sent on the way to it.
struct Got {
    response: Response<Body>,
    hub_headers: Vec<HeaderMap>,
}

impl Got {
    /// A header of the Hub's own, the first of the names that is there.
    fn hub_header(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| {
            self.hub_headers
                .iter()
                .find_map(|headers| headers.get(*name)?.to_str().ok())
        })
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// First byte and total of `Content-Range: bytes 5-9/20`.
    fn content_range(&self) -> Option<(u64, u64)> {
        let range = self.header("content-range")?.strip_prefix("bytes ")?;
        let (range, total) = range.split_once('/')?;
        let start = range.split_once('-').map_or("0", |(start, _)| start);
        Some((start.trim().parse().ok()?, total.trim().parse().ok()?))
    }
}

impl Remote {
    /// The Hub and the token that the environment names; `token_file` holds the token where no
    /// variable does.
    ///
    /// # Errors
    /// An address that is none; a token that no header can carry.
    pub fn from_env(token_file: &Path) -> Result<Self> {
        let endpoint = std::env::var("HF_ENDPOINT")
            .ok()
            .filter(|endpoint| !endpoint.is_empty())
            .unwrap_or_else(|| HUB.to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let origin = endpoint
            .parse()
            .ok()
            .and_then(|url: Uri| Origin::of(&url))
            .ok_or_else(|| {
                Error::input("environment variable HF_ENDPOINT: not an address of a Hub")
                    .hint("give a URL such as https://huggingface.co, without a name and password")
            })?;
        let token = match Key::from_variable("HF_TOKEN")? {
            Some(token) => Some(token),
            None => files::read_text(token_file)
                .ok()
                .filter(|text| !text.trim().is_empty())
                .map(|text| Key::new(&text).map_err(|e| e.at_path(token_file)))
                .transpose()?,
        };
        let timeout = std::env::var("HF_HUB_DOWNLOAD_TIMEOUT")
            .ok()
            .and_then(|text| text.parse().ok())
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .filter(|timeout| !timeout.is_zero())
            .unwrap_or(TIMEOUT);
        let mut config = Agent::config_builder()
            .timeout_connect(Some(timeout))
            .timeout_recv_response(Some(timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false);
        if ["localhost", "127.0.0.1", "[::1]"].contains(&origin.host.as_str()) {
            config = config.proxy(None);
        }
        Ok(Self {
            endpoint,
            origin,
            token,
            timeout,
            agent: config.build().into(),
        })
    }

    /// The names of a repository's files.
    ///
    /// # Errors
    /// A repository that is not there or not open to this token; the network's.
    pub fn list(&self, model: &str) -> Result<Vec<String>> {
        const WHAT: &str = "the list of files";
        let url = format!("{}/api/models/{model}/revision/main", self.endpoint);
        let got = self.get(WHAT, &url, None)?;
        let mut bytes = Vec::new();
        self.read(WHAT, got.response, LONGEST_LIST + 1, &mut |chunk| {
            bytes.extend_from_slice(chunk);
            Ok(())
        })?;
        let listing: Listing = serde_json::from_slice(&bytes)
            .map_err(|_| failed(WHAT, "it is not one that the Hub gives"))?;
        Ok(listing
            .siblings
            .into_iter()
            .map(|file| file.rfilename)
            .collect())
    }

    /// What the Hub says of a file, without its contents.
    ///
    /// # Errors
    /// An answer that lacks something, or that names a blob or a commit as none can be named; the
    /// network's.
    pub fn describe(&self, model: &str, name: &str) -> Result<Described> {
        let got = self.get(name, &self.url(model, name), Some((0, Some(0))))?;
        let hash = |names: &[&str]| {
            let value = got.hub_header(names)?;
            let value = value.trim_start_matches("W/").trim_matches('"');
            is_hash(value).then(|| value.to_owned())
        };
        let missing = |what: &str| failed(name, &format!("the Hub says no {what}"));
        let etag = hash(&["x-linked-etag", "etag"]).ok_or_else(|| missing("hash of it"))?;
        let commit = hash(&["x-repo-commit"]).ok_or_else(|| missing("commit"))?;
        let is_whole = got.response.status().as_u16() == 200;
        let length = got
            .header("content-length")
            .filter(|_| is_whole)
            .and_then(|length| length.parse().ok());
        let size = got.content_range().map(|(_, total)| total).or(length);
        let linked = got
            .hub_header(&["x-linked-size"])
            .and_then(|size| size.parse().ok());
        let size = match (size, linked) {
            (Some(size), Some(linked)) if size != linked => {
                let found = format!("it has {size} bytes where the Hub says {linked}");
                return Err(failed(name, &found));
            }
            (size, linked) => size.or(linked).ok_or_else(|| missing("length"))?,
        };
        Ok(Described { commit, etag, size })
    }

    /// Downloads what is missing of a file; `told` hears how many bytes are there.
    ///
    /// # Errors
    /// The network's and the disk's; what came until then is kept in `path`.
    pub fn fetch(
        &self,
        model: &str,
        name: &str,
        file: &Described,
        path: &Path,
        told: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let mut log = AppendLog::open(path)?;
        if log.num_bytes()? > file.size {
            files::truncate(path, 0)?;
        }
        let mut have = log.num_bytes()?;
        if have == file.size {
            return log.sync();
        }
        let got = self.get(name, &self.url(model, name), Some((have, None)))?;
        match (got.response.status().as_u16(), got.content_range()) {
            (206, Some((start, total))) if start == have && total == file.size => {}
            (200, None) => {
                // The Hub sends the whole file whatever was asked for.
                files::truncate(path, 0)?;
                have = 0;
            }
            _ => {
                return Err(failed(
                    name,
                    "the Hub sends another part than was asked for",
                ));
            }
        }
        told(have);
        let left = file.size - have;
        self.read(name, got.response, left, &mut |chunk| {
            log.append(chunk)?;
            have += chunk.len() as u64;
            told(have);
            Ok(())
        })?;
        if have < file.size {
            let found = format!("the connection ended after {have} of {} bytes", file.size);
            return Err(failed(name, &found));
        }
        log.sync()
    }

    fn url(&self, model: &str, name: &str) -> String {
        let escaped: Vec<String> = name.split('/').map(percent_encoded).collect();
        format!(
            "{}/{model}/resolve/main/{}",
            self.endpoint,
            escaped.join("/")
        )
    }

    /// Asks for a URL and follows where it leads; the token is sent to the Hub's own origin alone.
    fn get(&self, what: &str, url: &str, range: Option<(u64, Option<u64>)>) -> Result<Got> {
        let mut url: Uri = url.parse().map_err(|_| failed(what, "no address"))?;
        let mut hub_headers = Vec::new();
        for _ in 0..MAX_REDIRECTS {
            let is_hub = Origin::of(&url).is_some_and(|origin| origin == self.origin);
            let mut request = self
                .agent
                .get(url.clone())
                .header("User-Agent", concat!("maqam/", env!("CARGO_PKG_VERSION")))
                .header("Accept-Encoding", "identity");
            if let Some((start, end)) = range {
                let end = end.map_or_else(String::new, |end| end.to_string());
                request = request.header("Range", format!("bytes={start}-{end}"));
            }
            if let Some(token) = self.token.as_ref().filter(|_| is_hub) {
                request = request.header("Authorization", token.authorization());
            }
            let response = request
                .call()
                .map_err(|e| failed(what, &self.hide(&e.to_string())))?;
            if is_hub {
                hub_headers.push(response.headers().clone());
            }
            let status = response.status().as_u16();
            // No part of an empty file can be sent, and the answer says so with its length.
            let is_empty = status == 416
                && range.is_some_and(|(start, _)| start == 0)
                && response
                    .headers()
                    .get("content-range")
                    .is_some_and(|found| found.as_bytes() == b"bytes */0");
            match status {
                _ if is_empty => {
                    return Ok(Got {
                        response,
                        hub_headers,
                    });
                }
                200 | 206 => {
                    return Ok(Got {
                        response,
                        hub_headers,
                    });
                }
                301 | 302 | 303 | 307 | 308 => {
                    let location = response
                        .headers()
                        .get("location")
                        .and_then(|location| location.to_str().ok());
                    url = location
                        .and_then(|location| followed(&url, location))
                        .ok_or_else(|| failed(what, "it is redirected to nowhere safe"))?;
                }
                _ => return Err(self.refused(what, status)),
            }
        }
        Err(failed(what, "it is redirected without end"))
    }

    /// Reads an answer chunk by chunk, up to `limit` bytes; what comes after is left alone.
    fn read(
        &self,
        what: &str,
        response: Response<Body>,
        limit: u64,
        found: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        // A thread of its own reads: no call into the network can be given a time without bytes.
        let mut reader = response.into_body().into_reader().take(limit);
        let (send, receive) = sync_channel(4);
        std::thread::spawn(move || {
            loop {
                let mut chunk = vec![0; CHUNK];
                let read = reader.read(&mut chunk).map(|read| {
                    chunk.truncate(read);
                    chunk
                });
                let is_last = read.as_ref().map_or(true, Vec::is_empty);
                if send.send(read).is_err() || is_last {
                    return;
                }
            }
        });
        loop {
            match receive.recv_timeout(self.timeout) {
                Ok(Ok(chunk)) if chunk.is_empty() => return Ok(()),
                Ok(Ok(chunk)) => found(&chunk)?,
                Ok(Err(e)) => return Err(failed(what, &self.hide(&e.to_string()))),
                Err(RecvTimeoutError::Timeout) => {
                    let found = format!("nothing came for {} s", self.timeout.as_secs_f64());
                    return Err(failed(what, &found));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(failed(what, "the connection ended"));
                }
            }
        }
    }

    /// The error for a status that is no answer.
    fn refused(&self, what: &str, status: u16) -> Error {
        let found = format!("cannot download {what}: the Hub answered {status}");
        let hint = match (status, &self.token) {
            (401 | 403, None) => {
                "set HF_TOKEN to a token that may read this repository, and accept its terms on the Hub"
            }
            (401 | 403, Some(_)) => {
                "the token may not read this repository: accept its terms on the Hub, or use another token"
            }
            _ => HINT,
        };
        let kind = if matches!(status, 401 | 403 | 404 | 410) {
            Kind::Input
        } else {
            Kind::Resource
        };
        Error::new(kind, found).hint(hint)
    }

    fn hide(&self, text: &str) -> String {
        self.token
            .as_ref()
            .map_or_else(|| text.to_owned(), |token| token.hide(text).into_owned())
    }
}

fn failed(what: &str, why: &str) -> Error {
    Error::resource(format!("cannot download {what}: {why}")).hint(HINT)
}

/// The address that a redirect leads to; none where it is no address, or leads from https to http.
fn followed(from: &Uri, location: &str) -> Option<Uri> {
    let origin = Origin::of(from)?;
    let to: Uri = if location.starts_with("//") {
        format!("{}:{location}", origin.scheme).parse().ok()?
    } else if location.starts_with('/') {
        format!("{}://{}{location}", origin.scheme, from.authority()?)
            .parse()
            .ok()?
    } else {
        location.parse().ok()?
    };
    let to_origin = Origin::of(&to)?;
    (origin.scheme == to_origin.scheme || to_origin.scheme == "https").then_some(to)
}

/// A part of a path as a URL writes it (RFC 3986, section 2.3).
fn percent_encoded(part: &str) -> String {
    let mut encoded = String::with_capacity(part.len());
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let origin = |text: &str| Origin::of(&uri(text));
        let hub = origin("https://huggingface.co/a/b?c");
        assert_eq!(hub, origin("HTTPS://HuggingFace.co:443/"));
        for other in [
            "http://huggingface.co/",
            "https://huggingface.co:444/",
            "https://huggingface.co.example/",
            "https://cdn.huggingface.co/",
        ] {
            assert!(origin(other).is_some() && origin(other) != hub, "{other}");
        }
        assert_eq!(origin("https://me:secret@huggingface.co/"), None);
        assert_eq!(origin("ftp://huggingface.co/"), None);
    }

    #[test]
    fn a_redirect_is_followed_but_never_to_less_safety() {
        let from = uri("https://hub.example/a/b");
        for (location, expected) in [
            ("/c?d=1", Some("https://hub.example/c?d=1")),
            ("https://cdn.example/x", Some("https://cdn.example/x")),
            ("//cdn.example/x", Some("https://cdn.example/x")),
            ("http://cdn.example/x", None),
            ("file:///etc/passwd", None),
            ("https://me:pass@cdn.example/x", None),
            ("\\\\x", None),
        ] {
            assert_eq!(followed(&from, location), expected.map(uri), "{location}");
        }
    }

    #[test]
    fn names_are_written_as_urls_write_them() {
        // As Python's `urllib.parse.quote(name, safe="")`.
        assert_eq!(
            percent_encoded("a b#1%?é.json"),
            "a%20b%231%25%3F%C3%A9.json"
        );
    }
}
