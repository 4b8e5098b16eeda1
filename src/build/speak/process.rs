//! Runs a command with a text and a time limit.

use std::fs::File;
use std::io::ErrorKind;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use crate::build::call::Calls;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;

/// Largest part of an error message that is stored, in bytes.
const LONGEST_MESSAGE: usize = 1 << 14;
/// Largest output that is read, in bytes.
const LONGEST_OUTPUT: usize = 1 << 30;
/// Bytes of an input that fit into the smallest pipe, so that writing them never waits.
const SHORT_INPUT: usize = 4096;
/// Bytes for which memory is reserved in advance; memory that is not written costs nothing.
const RESERVED: usize = 1 << 20;
/// Fewest bytes that one read may return.
const LEAST_READ: usize = 1 << 14;
/// Time that a program gets to end after it was told to.
const GRACE: Duration = Duration::from_secs(1);
/// Bytes that the system holds for this process to read.
#[cfg(target_os = "linux")]
const PIPE: libc::c_int = 1 << 20;
/// Longest time between two reads of an output whose pipe was enlarged, in milliseconds. A program
/// writes a few KiB at a time, and each read that waits for them wakes both processes.
const BETWEEN_READS_MS: libc::c_int = 4;
/// The same for a pipe of the system's own size, which a program fills sooner.
const BETWEEN_SHORT_READS_MS: libc::c_int = 1;
/// Characters of a message that are shown.
const SHOWN: usize = 200;

/// Result of a command.
pub(crate) struct Ended {
    /// True if its exit code was 0, in time.
    pub(crate) is_success: bool,
    /// Standard output of the command.
    pub(crate) output: Vec<u8>,
    /// Its standard error in one line, or what happened. It may hold keys.
    message: String,
}

impl Ended {
    /// The beginning of its message, without keys.
    pub(crate) fn told(&self, calls: &Calls) -> String {
        // Hidden first, then cut: a part of a key is not known as one.
        calls.hidden(&self.message).chars().take(SHOWN).collect()
    }
}

/// Runs a program with a text on its standard input.
///
/// # Errors
/// A program that cannot be started.
pub(crate) fn run(
    program: &str,
    arguments: &[String],
    input: &str,
    timeout: Duration,
) -> Result<Ended> {
    let mut child = Command::new(program)
        // A process group, so that processes that the program starts end with it.
        .process_group(0)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| not_started(program, e))?;
    let deadline = Instant::now() + timeout;
    let mut output = Stream::new(child.stdout.take().map(OwnedFd::from), LONGEST_OUTPUT);
    let mut message = Stream::new(child.stderr.take().map(OwnedFd::from), LONGEST_MESSAGE);
    let pause_ms = match output.enlarge() {
        true => BETWEEN_READS_MS,
        false => BETWEEN_SHORT_READS_MS,
    };
    let status = std::thread::scope(|scope| {
        // A program that does not read its input is no error.
        if let Some(mut stdin) = child.stdin.take() {
            if input.len() <= SHORT_INPUT {
                let _ = stdin.write_all(input.as_bytes());
            } else {
                scope.spawn(move || {
                    let _ = stdin.write_all(input.as_bytes());
                });
            }
        }
        let have_ended = read_both(&mut output, &mut message, pause_ms, deadline);
        let status = match have_ended {
            true => wait(&mut child, deadline),
            false => Ok(None),
        };
        if matches!(status, Ok(None)) {
            end(&mut child);
            let deadline = Instant::now() + GRACE;
            read_both(&mut output, &mut message, pause_ms, deadline);
            // Its status says only that it was ended.
            let _ = wait(&mut child, Instant::now() + GRACE);
        }
        status.ok().flatten()
    });
    let text = String::from_utf8_lossy(&message.bytes);
    let words: Vec<&str> = text.split_whitespace().collect();
    let message = match (status.is_none(), words.is_empty()) {
        (true, _) => format!("it took longer than {} s", timeout.as_secs_f64()),
        (false, true) => format!("{program} gave no message"),
        (false, false) => words.join(" "),
    };
    Ok(Ended {
        is_success: status.is_some_and(|status| status.success()),
        output: output.bytes,
        message,
    })
}

/// Reads both streams of a program up to their ends or until the deadline, and returns whether they
/// ended. It reads every `pause_ms` milliseconds, and once more when the program ends.
fn read_both(
    output: &mut Stream,
    message: &mut Stream,
    pause_ms: libc::c_int,
    deadline: Instant,
) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if output.has_ended() && message.has_ended() {
            return true;
        }
        if left.is_zero() {
            return false;
        }
        let mut polled = [&*output, &*message].map(|stream| stream.polled(libc::POLLIN));
        let left_ms = libc::c_int::try_from(left.as_millis() + 1).unwrap_or(libc::c_int::MAX);
        // SAFETY: the array has two elements, whose descriptors are open or negative.
        let num_ready = unsafe { libc::poll(polled.as_mut_ptr(), 2, left_ms) };
        if num_ready > 0 {
            for (stream, polled) in [&mut *output, &mut *message].into_iter().zip(polled) {
                if polled.revents != 0 {
                    stream.read();
                }
            }
        }
        if !(output.has_ended() && message.has_ended()) {
            // Without events, only the end of the messages ends the pause: that of the program.
            let mut end = message.polled(0);
            // SAFETY: one element, whose descriptor is open or negative.
            unsafe { libc::poll(&raw mut end, 1, pause_ms) };
        }
    }
}

/// A stream of a program.
struct Stream {
    /// The reading end; none after the stream's end.
    pipe: Option<File>,
    bytes: Vec<u8>,
    /// Bytes that are stored. More are read, or the program would wait, and dropped.
    most: usize,
}

impl Stream {
    fn new(pipe: Option<OwnedFd>, most: usize) -> Self {
        Self {
            pipe: pipe.map(File::from),
            bytes: Vec::new(),
            most,
        }
    }

    fn has_ended(&self) -> bool {
        self.pipe.is_none()
    }

    /// What `poll` waits for; the system skips the negative descriptor of a stream that has ended.
    fn polled(&self, events: libc::c_short) -> libc::pollfd {
        libc::pollfd {
            fd: self.pipe.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            events,
            revents: 0,
        }
    }

    /// Prepares for an output of hundreds of KiB, and returns whether the pipe holds it.
    fn enlarge(&mut self) -> bool {
        self.bytes.reserve(RESERVED);
        #[cfg(target_os = "linux")]
        if let Some(pipe) = &self.pipe {
            // SAFETY: the descriptor is open. A size that the system refuses changes nothing.
            let size = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, PIPE) };
            return size >= PIPE;
        }
        false
    }

    /// Reads once, which waits if the stream has nothing to read.
    fn read(&mut self) {
        let Some(pipe) = &self.pipe else {
            return;
        };
        if self.bytes.capacity() - self.bytes.len() < LEAST_READ {
            // At least doubles the memory.
            self.bytes.reserve(self.bytes.capacity().max(LEAST_READ));
        }
        let room = self.bytes.spare_capacity_mut();
        // SAFETY: the descriptor is open, and the memory has room for so many bytes.
        let num = unsafe { libc::read(pipe.as_raw_fd(), room.as_mut_ptr().cast(), room.len()) };
        match usize::try_from(num) {
            Ok(0) => self.pipe = None,
            Ok(num) => {
                // SAFETY: the system has written so many bytes behind the others.
                unsafe { self.bytes.set_len(self.bytes.len() + num) };
                self.bytes.truncate(self.most);
            }
            Err(_) if std::io::Error::last_os_error().kind() == ErrorKind::Interrupted => {}
            Err(_) => self.pipe = None,
        }
    }
}

/// Waits for a program, and returns its status; none at the deadline.
///
/// # Errors
/// The system's, after which the program's id may belong to another.
fn wait(child: &mut Child, deadline: Instant) -> std::io::Result<Option<ExitStatus>> {
    let mut pause = Duration::from_micros(50);
    loop {
        let status = child.try_wait()?;
        if status.is_some() || Instant::now() >= deadline {
            return Ok(status);
        }
        std::thread::sleep(pause);
        pause = (2 * pause).min(Duration::from_millis(10));
    }
}

/// Ends a program whose status was not read, and what it started, also if the program itself has
/// ended.
fn end(child: &mut Child) {
    if let Ok(group) = i32::try_from(child.id()) {
        // SAFETY: `kill` takes any numbers; the child still has its own, so the group is the one it
        // was started in.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
    let _ = child.kill();
}

/// The error for a program that cannot be started.
pub(crate) fn not_started(program: &str, error: std::io::Error) -> Error {
    let found = match error.kind() {
        std::io::ErrorKind::NotFound => Error::input(format!("`{program}` is not on the path"))
            .hint(format!(
                "install it, or give the path of the program; `which {program}` finds nothing"
            )),
        std::io::ErrorKind::PermissionDenied => {
            Error::input(format!("`{program}` may not be run: {error}"))
                .hint("make it executable: `chmod +x`")
        }
        _ => Error::new(
            Kind::Resource,
            format!("`{program}` cannot be started: {error}"),
        ),
    };
    found.caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, input: &str, timeout: Duration) -> Ended {
        let arguments = ["-c".to_owned(), script.to_owned()];
        run("sh", &arguments, input, timeout).unwrap()
    }

    #[test]
    fn commands_are_given_text_and_time() {
        let second = Duration::from_secs(20);
        let ended = shell("cat; echo oh  no >&2; exit 3", "نعم", second);
        assert_eq!(ended.output, "نعم".as_bytes());
        assert_eq!((ended.is_success, ended.message.as_str()), (false, "oh no"));
        assert!(shell("exit 0", &"x".repeat(1 << 20), second).is_success);
        let started = Instant::now();
        let ended = shell("sleep 100; true", "", Duration::from_millis(100));
        assert!(!ended.is_success && ended.message.contains("longer than 0.1 s"));
        assert!(started.elapsed() < Duration::from_secs(10));
        // What a program leaves behind keeps its output open.
        let started = Instant::now();
        let ended = shell("sleep 100 & exit 0", "", Duration::from_millis(200));
        assert!(!ended.is_success && started.elapsed() < Duration::from_secs(10));
        let long = shell("head -c 3000000 /dev/zero", "", second);
        assert!(long.is_success && long.output.len() == 3_000_000);
        // Both streams at once, each larger than a pipe, after an input that does not fit into one.
        let script = "head -c 300000 /dev/zero >&2; cat";
        let both = shell(script, &"y".repeat(400_000), second);
        assert!(both.is_success && both.output == [b'y'; 400_000]);
        assert_eq!(both.message.len(), LONGEST_MESSAGE);
        let error = run("no-such-program-here", &[], "", second).err().unwrap();
        assert_eq!(error.exit_code(), 2);
    }
}
