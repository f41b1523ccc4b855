//! File systems to be full or stuck. Only root has them; without, tests are skipped.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

pub struct Disk {
    folder: TempDir,
}

impl Disk {
    /// A disk of this size, in memory.
    pub fn small(kilobytes: usize) -> Option<Disk> {
        let size = format!("size={kilobytes}k");
        Disk::mounted("a small disk", |_, mounted| {
            run("mount", &["-t", "tmpfs", "-o", &size, "none", mounted])
        })
    }

    /// A disk in a file, which can be made to keep everybody waiting.
    pub fn that_freezes() -> Option<Disk> {
        Disk::mounted("a disk that freezes", |folder, mounted| {
            let image = folder.join("image");
            fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
            let image = image.to_str().unwrap();
            run("mkfs.ext4", &["-q", image]) && run("mount", &["-o", "loop", image, mounted])
        })
    }

    fn mounted(what: &str, mount: impl FnOnce(&Path, &str) -> bool) -> Option<Disk> {
        let disk = Disk { folder: TempDir::new().unwrap() };
        fs::create_dir(disk.path()).unwrap();
        if mount(disk.folder.path(), disk.path().to_str().unwrap()) {
            return Some(disk);
        }
        eprintln!("SKIPPED: {what} cannot be mounted here");
        None
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    /// Fills the disk to the last byte.
    pub fn fill(&self) {
        let mut ballast = fs::File::create(self.ballast()).unwrap();
        for size in [4096, 1] {
            let full =
                std::iter::repeat_with(|| ballast.write_all(&vec![7; size])).find_map(Result::err);
            assert_eq!(full.map(|error| error.kind()), Some(io::ErrorKind::StorageFull));
        }
    }

    pub fn empty(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Whoever writes waits until the guard is dropped. It has to be dropped before a
    /// plugin is, whose end would be waited for otherwise.
    pub fn freeze(&self) -> Frozen {
        assert!(run("fsfreeze", &["-f", self.path().to_str().unwrap()]));
        Frozen(self.path())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("umount", &["--lazy", self.path().to_str().unwrap()]);
    }
}

pub struct Frozen(PathBuf);

impl Drop for Frozen {
    fn drop(&mut self) {
        run("fsfreeze", &["-u", self.0.to_str().unwrap()]);
    }
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
