//! Runs a command with a text and a time limit.

use std::fs::File;
use std::io::Read;
use std::io::Seek;
use std::io::Write;
use std::process::Child;
use std::process::ChildStderr;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

use crate::build::call::Calls;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;

/// Largest part of an error message that is stored, in bytes.
const LONGEST_MESSAGE: u64 = 1 << 14;
/// Largest output, in bytes.
const LONGEST_OUTPUT: u64 = 1 << 30;
/// Time between two looks at the size of an output.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);
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
/// Input and output are files in memory, so that the program never waits for this process, and this
/// process sleeps until the program ends. A pipe would wake both for every 4 KiB of sound.
///
/// # Errors
/// A program that cannot be started; no memory or disk for the files.
pub(crate) fn run(
    program: &str,
    arguments: &[String],
    input: &str,
    timeout: Duration,
) -> Result<Ended> {
    let mut stdin = unnamed_file()?;
    stdin
        .write_all(input.as_bytes())
        .and_then(|()| stdin.rewind())
        .map_err(no_room)?;
    let mut stdout = unnamed_file()?;
    let mut command = Command::new(program);
    // A process group, so that processes that the program starts end with it.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command
        .args(arguments)
        .stdin(stdin)
        .stdout(stdout.try_clone().map_err(no_room)?)
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| not_started(program, e))?;
    // The program's copy of its output must not stay open here.
    drop(command);
    let stderr = child.stderr.take();
    let child = Mutex::new(child);
    let deadline = Instant::now() + timeout;
    let (end_reason, status, message) = std::thread::scope(|scope| {
        let (done, is_done) = mpsc::channel::<()>();
        let watched = &child;
        let written = &stdout;
        let watchdog = scope.spawn(move || watch(watched, written, deadline, &is_done));
        // The end of its messages is the end of the program, or of what it started.
        let message = stderr.map(read_message).unwrap_or_default();
        let status = waited(&child, deadline + Duration::from_secs(1));
        drop(done);
        (watchdog.join().unwrap_or(None), status, message)
    });
    let mut output = Vec::new();
    if end_reason.is_none() {
        let size = stdout.metadata().map_err(no_room)?.len();
        output.reserve_exact(size as usize);
        stdout
            .rewind()
            .and_then(|()| stdout.read_to_end(&mut output))
            .map_err(no_room)?;
    }
    let text = String::from_utf8_lossy(&message);
    let words: Vec<&str> = text.split_whitespace().collect();
    let message = match (&end_reason, words.is_empty()) {
        (Some(EndReason::Time), _) => format!("it took longer than {} s", timeout.as_secs_f64()),
        (Some(EndReason::Size), _) => format!("it wrote more than {LONGEST_OUTPUT} bytes"),
        (None, true) => format!("{program} gave no message"),
        (None, false) => words.join(" "),
    };
    Ok(Ended {
        is_success: end_reason.is_none() && status.is_some_and(|status| status.success()),
        output,
        message,
    })
}

/// Why a program was ended.
enum EndReason {
    Time,
    Size,
}

/// Ends the program once it takes too long or writes too much; none if it ends by itself.
fn watch(
    child: &Mutex<Child>,
    stdout: &File,
    deadline: Instant,
    is_done: &mpsc::Receiver<()>,
) -> Option<EndReason> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let ended = is_done.recv_timeout(left.min(BETWEEN_LOOKS));
        if ended != Err(mpsc::RecvTimeoutError::Timeout) {
            return None;
        }
        let is_long = stdout
            .metadata()
            .is_ok_and(|file| file.len() > LONGEST_OUTPUT);
        let reason = match is_long {
            true => EndReason::Size,
            false if Instant::now() >= deadline => EndReason::Time,
            false => continue,
        };
        end(&mut locked(child));
        return Some(reason);
    }
}

/// The first bytes of a program's messages. The rest is read too, or the program would wait.
fn read_message(mut stderr: ChildStderr) -> Vec<u8> {
    let mut message = Vec::new();
    let _ = (&mut stderr)
        .take(LONGEST_MESSAGE)
        .read_to_end(&mut message);
    let _ = std::io::copy(&mut stderr, &mut std::io::sink());
    message
}

/// The exit status of a program that has closed its output or is about to; none if it is not there
/// by `deadline`.
fn waited(child: &Mutex<Child>, deadline: Instant) -> Option<ExitStatus> {
    let mut wait = Duration::from_micros(50);
    loop {
        match locked(child).try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => {}
            _ => return None,
        }
        std::thread::sleep(wait);
        wait = (2 * wait).min(Duration::from_millis(10));
    }
}

/// A file without a name: in memory on Linux, in the folder of temporary files elsewhere.
fn unnamed_file() -> Result<File> {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::FromRawFd;
        // SAFETY: the name ends with a zero, and the descriptor, if it is one, belongs to nobody.
        let file = unsafe {
            let descriptor = libc::memfd_create(c"maqam".as_ptr(), libc::MFD_CLOEXEC);
            (descriptor >= 0).then(|| File::from_raw_fd(descriptor))
        };
        if let Some(file) = file {
            return Ok(file);
        }
    }
    tempfile::tempfile().map_err(no_room)
}

fn no_room(error: std::io::Error) -> Error {
    Error::new(
        Kind::Resource,
        format!("no room for the input and output of a program: {error}"),
    )
    .caused_by(error)
}

/// Ends a program and what it started.
fn end(child: &mut Child) {
    // The id of a child that was waited for may belong to another process.
    if !matches!(child.try_wait(), Ok(None)) {
        return;
    }
    #[cfg(unix)]
    if let Ok(group) = i32::try_from(child.id()) {
        // SAFETY: `kill` takes any numbers; the child still has its own, so the group is the one it
        // was started in.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
    let _ = child.kill();
}

fn locked(child: &Mutex<Child>) -> std::sync::MutexGuard<'_, Child> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
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
        let error = run("no-such-program-here", &[], "", second).err().unwrap();
        assert_eq!(error.exit_code(), 2);
    }
}
