//! The forgetful disk under a loop device with ext4 on it, or a plain image where nothing is to be forgotten.
//!
//! Everything lies in a directory whose name has this process' number, so what an earlier process left behind, because it
//! was killed, is found and taken down by the next.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::BackgroundSession;
use tempfile::TempDir;

use crate::disk::{Disk, Forgotten, Mode};
use crate::fuse;
use crate::rng::Rng;

/// Directories begin like this, then come the process' number and a hyphen.
const PREFIX: &str = "alluvium-power-";

/// A loop device that is not free after this long never will be.
const DETACH_LIMIT: Duration = Duration::from_secs(20);

/// A disk with a file system that can be mounted and taken down again and again.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Ends with the machine, after everything below it is unmounted.
    root: TempDir,
    /// The file under the loop device.
    file: PathBuf,
    disk: Option<Arc<Disk>>,
    session: Option<BackgroundSession>,
    device: Option<String>,
    is_mounted: bool,
}

impl Machine {
    /// A machine with a forgetful disk, formatted but not mounted.
    ///
    /// # Errors
    ///
    /// A sentence that says what this system lacks.
    pub(crate) fn forgetful(bytes: u64) -> Result<Self, String> {
        if !Path::new("/dev/fuse").exists() {
            return Err("there is no /dev/fuse".into());
        }
        let mut machine = Self::plain(bytes)?;
        let disk = Disk::open(&machine.file).map_err(|e| format!("the image: {e}"))?;
        let disk = Arc::new(disk);
        let at = machine.root.path().join("fuse");
        std::fs::create_dir(&at).map_err(|e| format!("{}: {e}", at.display()))?;
        let session = fuse::mount(Arc::clone(&disk), &at).map_err(|e| format!("FUSE: {e}"))?;
        machine.file = at.join(fuse::FILE_NAME);
        machine.session = Some(session);
        machine.disk = Some(disk);
        Ok(machine)
    }

    /// A machine with an ordinary disk.
    ///
    /// # Errors
    ///
    /// A sentence that says what this system lacks.
    pub(crate) fn plain(bytes: u64) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("mounting needs root".into());
        }
        if !Path::new("/dev/loop-control").exists() {
            return Err("there are no loop devices".into());
        }
        sweep();
        let cannot = |e| format!("cannot make an image: {e}");
        let root = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}-", std::process::id()))
            .tempdir()
            .map_err(cannot)?;
        let file = root.path().join("image");
        let image = File::create(&file).map_err(cannot)?;
        image.set_len(bytes).map_err(cannot)?;
        std::fs::create_dir(root.path().join("mnt")).map_err(cannot)?;
        // Nothing is left for later in the background, so that every operation is the server's.
        let eager = "nodiscard,lazy_itable_init=0,lazy_journal_init=0";
        run(
            "mkfs.ext4",
            &["-q", "-F", "-N", "4096", "-m", "0", "-E", eager],
            &file,
        )?;
        Ok(Self {
            root,
            file,
            disk: None,
            session: None,
            device: None,
            is_mounted: false,
        })
    }

    /// The mounted file system.
    pub(crate) fn mount_point(&self) -> PathBuf {
        self.root.path().join("mnt")
    }

    /// The forgetful disk.
    ///
    /// # Panics
    ///
    /// If the machine has none.
    pub(crate) fn disk(&self) -> &Arc<Disk> {
        self.disk.as_ref().expect("a machine with a plain image")
    }

    pub(crate) fn is_mounted(&self) -> bool {
        self.is_mounted
    }

    /// Attaches the loop device and mounts, replaying ext4's journal.
    ///
    /// # Errors
    ///
    /// What `losetup` or `mount` said.
    pub(crate) fn up(&mut self) -> Result<(), String> {
        // Direct, so that a flush of the device is a flush of the disk and nothing else is in between.
        let args = ["--find", "--show", "--direct-io=on"];
        let device = run("losetup", &args, &self.file)?;
        self.device = Some(device.trim().to_owned());
        let args = ["-t", "ext4", device.trim()];
        run("mount", &args, &self.mount_point())?;
        self.is_mounted = true;
        Ok(())
    }

    /// Unmounts and detaches, with or without power. Nobody may have files open any more.
    ///
    /// # Panics
    ///
    /// If the loop device does not come free.
    pub(crate) fn down(&mut self) {
        if let Err(sentence) = self.try_down() {
            panic!("{sentence}");
        }
    }

    fn try_down(&mut self) -> Result<(), String> {
        if std::mem::take(&mut self.is_mounted) {
            let at = self.mount_point();
            run("umount", &[], &at).or_else(|_| run("umount", &["--lazy"], &at))?;
        }
        if let Some(device) = self.device.take() {
            run("losetup", &["--detach"], Path::new(&device))?;
            wait_free(&device, &self.file)?;
        }
        Ok(())
    }

    /// Gives the disk its power back; only while it is down.
    pub(crate) fn power_on(&self, mode: Mode, rng: &mut Rng) -> Forgotten {
        assert!(
            self.device.is_none(),
            "what holds the disk would see it change"
        );
        self.disk()
            .power_on(mode, rng)
            .expect("the image is written")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(disk) = &self.disk {
            // A file system that has nothing to write comes down at once.
            disk.cut();
        }
        if let Err(sentence) = self.try_down() {
            eprintln!("left behind: {sentence}");
        }
        if let Some(session) = self.session.take() {
            let _ = session.umount_and_join();
        }
    }
}

/// Waits until a loop device has let go of its file.
fn wait_free(device: &str, file: &Path) -> Result<(), String> {
    let name = device.rsplit('/').next().unwrap_or(device);
    let path = format!("/sys/block/{name}/loop/backing_file");
    let begin = Instant::now();
    // The device may be another process' already.
    while std::fs::read_to_string(&path).is_ok_and(|f| Path::new(f.trim()) == file) {
        if begin.elapsed() > DETACH_LIMIT {
            return Err(format!("{device} is still in use"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Runs a tool with a path behind its arguments; its output.
fn run(tool: &str, args: &[&str], path: &Path) -> Result<String, String> {
    let output = Command::new(tool)
        .args(args)
        .arg(path)
        .output()
        .map_err(|e| format!("{tool}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("{tool} {}: {}", path.display(), error.trim()))
}

/// Takes down what processes that are no more left behind: servers, mounts, loop devices, directories.
fn sweep() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let process = name
            .to_str()
            .and_then(|n| n.strip_prefix(PREFIX)?.split_once('-'))
            .and_then(|(process, _)| process.parse::<u32>().ok());
        let Some(process) = process else {
            continue;
        };
        if !Path::new(&format!("/proc/{process}")).exists() {
            take_down(&entry.path());
        }
    }
}

fn take_down(root: &Path) {
    for server in processes_naming(root) {
        let _ = run("kill", &["-9"], Path::new(&server));
    }
    let _ = run("umount", &["--lazy", "--quiet"], &root.join("mnt"));
    if let Ok(devices) = std::fs::read_dir("/sys/block") {
        for device in devices.flatten() {
            let backing = device.path().join("loop/backing_file");
            let backing = std::fs::read_to_string(backing).unwrap_or_default();
            if Path::new(backing.trim()).starts_with(root) {
                let device = Path::new("/dev").join(device.file_name());
                let _ = run("losetup", &["--detach"], &device);
            }
        }
    }
    let _ = run("umount", &["--lazy", "--quiet"], &root.join("fuse"));
    let _ = std::fs::remove_dir_all(root);
}

/// The numbers of processes with a path below `root` among their arguments.
fn processes_naming(root: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let names_it = |process: &Path| {
        let arguments = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let mut arguments = arguments.split(|b| *b == 0).map(String::from_utf8_lossy);
        arguments.any(|a| Path::new(a.as_ref()).starts_with(root))
    };
    entries
        .flatten()
        .filter(|e| names_it(&e.path()))
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
        .collect()
}
