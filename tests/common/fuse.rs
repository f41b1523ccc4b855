//! One file whose reads and writes a test answers, as the kernel's register files
//! answer theirs: the few messages of FUSE that this takes (linux/fuse.h, 7.31). A
//! file can be the root of a FUSE mount, and then there is no directory to serve.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What was asked of the file; the answer is what was read, or an error's number.
pub enum Asked<'a> {
    Read { offset: usize, size: usize },
    Written(&'a [u8]),
}

pub type Answer = Result<Vec<u8>, i32>;

pub struct FuseFile {
    path: PathBuf,
}

impl FuseFile {
    /// Puts the file at `path`; `None`, said aloud, where the machine cannot.
    pub fn mount(
        path: &Path,
        mut answer: impl FnMut(Asked) -> Answer + Send + 'static,
    ) -> Option<FuseFile> {
        File::create(path).unwrap();
        let Ok(device) = OpenOptions::new().read(true).write(true).open("/dev/fuse") else {
            eprintln!("SKIPPED: no /dev/fuse");
            return None;
        };
        let mut served = device.try_clone().unwrap();
        // Waits for the mount, and ends with it.
        std::thread::spawn(move || {
            let mut request = vec![0; 1 << 17];
            loop {
                match served.read(&mut request) {
                    Ok(length) => reply(&mut served, &request[..length], &mut answer),
                    Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return,
                    Err(_) => {}
                }
            }
        });
        let options = "fd=0,rootmode=100644,user_id=0,group_id=0,allow_other";
        let mut mount = Command::new("mount");
        mount.args(["-i", "-t", "fuse", "-o", options, "test"]).arg(path).stdin(device);
        let mounted = mount.output().is_ok_and(|mount| mount.status.success());
        if !mounted {
            eprintln!("SKIPPED: FUSE cannot be mounted here");
            return None;
        }
        Some(FuseFile { path: path.to_owned() })
    }
}

impl Drop for FuseFile {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn reply(device: &mut File, request: &[u8], answer: &mut impl FnMut(Asked) -> Answer) {
    const HEADER: usize = 40;
    let body = &request[HEADER..];
    let words = |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|w| w.to_le_bytes()).collect() };
    let answer = match u32_at(request, 4) {
        // FORGET, INTERRUPT and BATCH_FORGET have no reply.
        2 | 36 | 42 => return,
        // INIT: version, read-ahead, flags, queue, longest write, granularity.
        26 => {
            let mut init = words(&[7, 31, 4096, 0, 0, 4096, 1]);
            init.resize(64, 0);
            Ok(init)
        }
        // GETATTR and SETATTR: a regular file of mode 0644.
        3 | 4 => {
            let mut attributes = vec![0; 104];
            attributes[16] = 1;
            attributes[76..80].copy_from_slice(&0o100644u32.to_le_bytes());
            attributes[80] = 1;
            Ok(attributes)
        }
        // OPEN: past the page cache.
        14 => Ok(words(&[0, 0, 1, 0])),
        15 => {
            let (offset, size) = (u32_at(body, 8) as usize, u32_at(body, 16) as usize);
            answer(Asked::Read { offset, size })
        }
        16 => {
            let size = u32_at(body, 16);
            answer(Asked::Written(&body[40..][..size as usize])).map(|_| words(&[size, 0]))
        }
        // RELEASE, FSYNC, FLUSH.
        18 | 20 | 25 => Ok(Vec::new()),
        _ => Err(libc::ENOSYS),
    };
    let (error, body) = match answer {
        Ok(body) => (0, body),
        Err(number) => (-number, Vec::new()),
    };
    let mut message = (16 + body.len() as u32).to_le_bytes().to_vec();
    message.extend(error.to_le_bytes());
    message.extend(&request[8..16]);
    message.extend(body);
    // Whoever asked may be dead.
    let _ = device.write(&message);
}
