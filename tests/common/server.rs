//! The real `eventlog-server`, started on a private socket and folder.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use ccnp_eventlog::client::call;
use ccnp_eventlog::error::Error;
use ccnp_eventlog::rpc::eventlog::GetEventlogRequest;
use ccnp_eventlog::rpc::GET_EVENTLOG;
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use tempfile::TempDir;

pub const SERVER: &str = env!("CARGO_BIN_EXE_eventlog-server");
pub const CTL: &str = env!("CARGO_BIN_EXE_eventlogctl");

/// The cores are shared and noisy: we wait for states, and this long at the most.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const TDX: (i32, i32) = (0, 0);
pub const TPM: (i32, i32) = (0, 1);

/// A folder with everything that one server needs, and the server, if it runs.
pub struct Server {
    pub folder: TempDir,
    child: Option<Child>,
}

impl Server {
    /// A server of the sample logs that answers.
    pub fn start(arguments: &[&str]) -> Server {
        let mut server = Server::stopped();
        server.run(arguments);
        server
    }

    /// A folder for a server that the test starts itself.
    pub fn stopped() -> Server {
        Server { folder: TempDir::new().unwrap(), child: None }
    }

    /// Starts the server and waits until its socket answers.
    pub fn run(&mut self, arguments: &[&str]) {
        let child = self.command(arguments).spawn().unwrap();
        self.child = Some(child);
        let socket = self.socket();
        self.until(&format!("{} answers", socket.display()), || {
            UnixStream::connect(&socket).is_ok()
        });
    }

    /// The server's command line, with `arguments` over an environment that gives it
    /// sample logs and private paths; its log goes to a file.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(SERVER);
        command
            .env_clear()
            .env("CCNP_EVENTLOG_SOCKET", self.socket())
            .env("CCNP_EVENTLOG_OUTPUT_DIR", self.output())
            .env("CCNP_EVENTLOG_CCEL", super::ccel())
            .env("CCNP_EVENTLOG_TPM_LOG", super::tpm_log())
            .env("CCNP_EVENTLOG_CONTAINER_LOG", self.path("container.log"))
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(File::options().create(true).append(true).open(self.path("log")).unwrap());
        command
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("eventlog.sock")
    }

    pub fn output(&self) -> PathBuf {
        self.path("published")
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.as_ref().expect("the server runs").id().try_into().unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub fn has_exited(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the server runs");
        self.until("the server exits", || child.try_wait().unwrap().is_some());
        child.wait().unwrap()
    }

    pub fn adopt(&mut self, child: Child) {
        self.child = Some(child);
    }

    pub fn get(&self, log: (i32, i32), start: i32, count: i32) -> Result<PathBuf, Error> {
        get(&self.socket(), log, start, count)
    }

    /// Waits until something is so.
    pub fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let begin = Instant::now();
        while !is_so() {
            assert!(begin.elapsed() < PATIENCE, "never happened: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts the server as systemd does: `socket` is descriptor 3, announced under
/// `name`. A shell stands in for systemd, since only the process itself knows its
/// number.
pub fn activated(server: &Server, socket: &impl AsFd, name: &str, arguments: &[&str]) -> Child {
    let mut command = activation(server, socket, &[("LISTEN_FDNAMES", name)]);
    command.args(arguments).spawn().unwrap()
}

/// The same with other variables than systemd would set.
pub fn activated_with(server: &Server, socket: &impl AsFd, environment: &[(&str, &str)]) -> Child {
    activation(server, socket, environment).spawn().unwrap()
}

fn activation(server: &Server, socket: &impl AsFd, environment: &[(&str, &str)]) -> Command {
    let prepared = server.command(&[]);
    let mut shell = Command::new("sh");
    shell
        .env_clear()
        .envs(prepared.get_envs().filter_map(|(key, value)| Some((key, value?))))
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", "grpc")
        .envs(environment.iter().copied())
        // Standard input is the one descriptor that std hands on; it becomes 3 and 4.
        .stdin(socket.as_fd().try_clone_to_owned().unwrap())
        .stderr(File::options().create(true).append(true).open(server.path("log")).unwrap())
        .arg("-c")
        .arg(r#"export LISTEN_PID="${LISTEN_PID:-$$}"; exec "$0" "$@" 3<&0 4<&0 </dev/null"#)
        .arg(SERVER);
    shell
}

/// One call over a connection of its own. `log` is level and category, as numbers
/// so that a test can send what is none.
pub fn get(socket: &Path, log: (i32, i32), start: i32, count: i32) -> Result<PathBuf, Error> {
    let request = request(log, start, count);
    let reply = call(socket, &GET_EVENTLOG, &request, PATIENCE)?;
    Ok(PathBuf::from(reply.eventlog_data_loc))
}

pub fn request((level, category): (i32, i32), start: i32, count: i32) -> GetEventlogRequest {
    GetEventlogRequest {
        eventlog_level: protobuf::EnumOrUnknown::from_i32(level),
        eventlog_category: protobuf::EnumOrUnknown::from_i32(category),
        start_position: start,
        count,
        ..Default::default()
    }
}
