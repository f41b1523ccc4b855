//! The real `eventlog-nri` in a folder of its own, and what it has logged.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use ccnp_eventlog::log::{event_type, End, Log};
use ccnp_eventlog::record::decode;
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use serde_json::{Map, Value};
use tempfile::TempDir;

use super::runtime::{Runtime, Version, PATIENCE};

pub const NRI: &str = env!("CARGO_BIN_EXE_eventlog-nri");

pub type Record = Map<String, Value>;

pub struct Plugin {
    pub folder: TempDir,
    pub container_log: PathBuf,
    child: Option<Child>,
}

/// A runtime of this version, and the plugin connected with it.
pub fn audited(version: Version) -> (Runtime, Plugin) {
    audited_with(version, &[])
}

pub fn audited_with(version: Version, arguments: &[&str]) -> (Runtime, Plugin) {
    let mut plugin = Plugin::stopped();
    let mut runtime = Runtime::listen(&plugin.socket(), version);
    plugin.run(arguments);
    runtime.connect();
    (runtime, plugin)
}

impl Plugin {
    /// A folder for a plugin that is yet to be run.
    pub fn stopped() -> Plugin {
        let folder = TempDir::new().unwrap();
        Plugin { container_log: folder.path().join("container.log"), folder, child: None }
    }

    pub fn run(&mut self, arguments: &[&str]) {
        let child = self.command(arguments).spawn().unwrap();
        self.child = Some(child);
    }

    pub fn adopt(&mut self, child: Child) {
        self.child = Some(child);
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(NRI);
        command
            .env_clear()
            .env("CCNP_EVENTLOG_LOG", "info")
            .arg("--nri-socket")
            .arg(self.socket())
            .arg("--container-log")
            .arg(&self.container_log)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::options().create(true).append(true).open(self.path("stderr")).unwrap());
        command
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("nri.sock")
    }

    /// What it has said to people.
    pub fn said(&self) -> String {
        fs::read_to_string(self.path("stderr")).unwrap_or_default()
    }

    /// The same, once it says something: its words go by a thread of their own.
    pub fn said_when(&self, what: &str) -> String {
        let begin = Instant::now();
        while !self.said().contains(what) {
            assert!(begin.elapsed() < PATIENCE, "{what:?} is never said\n{}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
        self.said()
    }

    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the plugin runs");
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
    }

    /// What it has used of memory at the most, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Lets it fail rather than take all memory of the machine.
    pub fn may_use(&self, bytes: u64) {
        let mut limit = Command::new("prlimit");
        limit.arg(format!("--as={bytes}")).arg(format!("--pid={}", self.id()));
        assert!(limit.status().unwrap().success());
    }

    fn id(&self) -> u32 {
        self.child.as_ref().expect("the plugin runs").id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self) -> ExitStatus {
        let begin = Instant::now();
        while self.is_running() {
            assert!(begin.elapsed() < PATIENCE, "the plugin does not end\n{}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        }
        self.child.take().expect("the plugin ran").wait().unwrap()
    }

    /// Asks it to end, which it does well.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "{status}\n{}", self.said());
    }

    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait();
    }

    /// The records that stand whole in the log, those of its older files first.
    pub fn records(&self) -> Vec<Record> {
        loop {
            let files = self.log_files();
            let logs: Vec<_> =
                files.iter().filter_map(|path| Log::parse(fs::read(path).ok()?).ok()).collect();
            // A file that became an older one meanwhile is missing.
            if self.log_files() != files {
                continue;
            }
            let records = logs.iter().flat_map(|log| {
                log.events().map(|event| {
                    assert_eq!(event.event_type, event_type::EV_EVENT_TAG);
                    decode(event.data).expect("an event is a record")
                })
            });
            return records.collect();
        }
    }

    /// A log that is full goes on in another file; the times in their names sort them.
    pub fn log_files(&self) -> Vec<PathBuf> {
        let folder = self.container_log.parent().unwrap();
        let files = fs::read_dir(folder)
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut older: Vec<String> =
            files.filter(|name| name.starts_with("container-") && name.ends_with(".log")).collect();
        older.sort();
        older.iter().map(|name| folder.join(name)).chain([self.container_log.clone()]).collect()
    }

    /// Waits until something is so of the records, and gives them all.
    pub fn records_when(
        &self,
        what: &str,
        mut is_so: impl FnMut(&[Record]) -> bool,
    ) -> Vec<Record> {
        let begin = Instant::now();
        let mut pause = Duration::from_millis(2);
        loop {
            let records = self.records();
            if is_so(&records) {
                return records;
            }
            let all = || {
                let lines = records.iter().map(|record| Value::Object(record.clone()).to_string());
                lines.collect::<Vec<_>>().join("\n")
            };
            assert!(begin.elapsed() < PATIENCE, "never: {what}\n{}\n{}", all(), self.said());
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    /// Waits for records of a kind and gives those.
    pub fn records_of(&self, kind: &str, number: usize) -> Vec<Record> {
        let records = self.records_when(&format!("{number} of {kind}"), |records| {
            records.iter().filter(|record| text(record, "kind") == kind).count() >= number
        });
        records.into_iter().filter(|record| text(record, "kind") == kind).collect()
    }

    /// Whether the log's last byte is that of an event.
    pub fn log_is_whole(&self) -> bool {
        let log = Log::parse(fs::read(&self.container_log).unwrap()).unwrap();
        log.end() == End::AtLastByte
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A string of a record, empty where there is none.
pub fn text<'a>(record: &'a Record, key: &str) -> &'a str {
    record.get(key).and_then(Value::as_str).unwrap_or_default()
}

pub fn number(record: &Record, key: &str) -> u64 {
    record.get(key).and_then(Value::as_u64).unwrap_or_default()
}

/// Whether a record is of this kind and about the container with this id.
pub fn is(record: &Record, kind: &str, container: &str) -> bool {
    text(record, "kind") == kind && text(record, "container_id") == container
}
