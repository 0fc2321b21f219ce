//! The real binary on the forgetful disk: load, a cut, recovery with more cuts, and what must be there.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use crate::aged::{self, Aged};
use crate::client::Client;
use crate::disk::Mode;
use crate::machine::Machine;
use crate::oracle::{self, Oracle};
use crate::prefix::{self, Base};
use crate::rng::Rng;
use crate::server::Server;

/// The disk: sparse, and so large that nothing meets its end.
const DISK_BYTES: u64 = 2 << 30;

/// Databases and the connections that write to each.
const LOADS: [(&str, usize); 2] = [("kill", 2), ("second", 1)];

/// What is allowed for a flush where it is promised at intervals, with every processor busy.
const FLUSH: Duration = Duration::from_millis(400);

/// Longest load before a cut.
const LOAD_MS_MAX: u64 = 1500;

/// Cuts while it recovers come at one of its first so many writes and flushes.
const RECOVERY_OPERATIONS: u64 = 150;

/// How long a cut during recovery is waited for before the recovery counts as done.
const RECOVERY_PATIENCE: Duration = Duration::from_millis(300);

/// What an acknowledgement promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    Sync,
    Interval { ms: u64 },
    Os,
}

impl Durability {
    pub(crate) const ALL: [Self; 3] = [Self::Sync, Self::Interval { ms: 50 }, Self::Os];

    /// As the flag `--durability` and `cargo xtask power` take it.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Sync => "sync".into(),
            Self::Interval { ms } => format!("interval={ms}ms"),
            Self::Os => "os".into(),
        }
    }
}

/// What to do.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) cycles: u64,
    pub(crate) seed: u64,
    pub(crate) io: &'static str,
    pub(crate) modes: Vec<Mode>,
    pub(crate) durability: Durability,
    /// What the server is told; less than `durability` shows that a loss is found.
    pub(crate) served: Durability,
}

/// What a run did.
#[derive(Debug, Default)]
struct Counts {
    cuts: u64,
    cuts_in_recovery: u64,
    cuts_in_mount: u64,
    unsynced: u64,
    forgotten: u64,
    /// Acknowledged lines and deletes that were gone and might be.
    lost: u64,
}

/// One run on one machine.
struct Run<'a> {
    plan: &'a Plan,
    machine: &'a mut Machine,
    directory: PathBuf,
    rng: Rng,
    /// By database, then by connection.
    oracles: Vec<Vec<Oracle>>,
    bases: Vec<Vec<Base>>,
    aged: Aged,
    counts: Counts,
    shards: u64,
    /// Those of the life that was loaded last.
    loaded_shards: u64,
}

/// Runs a plan on a new machine; its line for the report.
///
/// # Errors
///
/// What this system lacks for it.
pub(crate) fn run(plan: &Plan) -> Result<String, String> {
    let mut machine = Machine::forgetful(DISK_BYTES)?;
    machine.up()?;
    match Server::start(&machine.mount_point().join("probe"), plan.io) {
        Ok(server) => server.kill(),
        Err(error) if plan.io == "uring" => return Err(format!("io_uring: {error}")),
        Err(error) => panic!("{error}"),
    }
    let directory = machine.mount_point().join("data");
    let oracles = LOADS.map(|(database, connections)| {
        let oracle = |_| {
            let mut oracle = Oracle::of(database);
            oracle.disk_may_fail = true;
            oracle
        };
        (0..connections).map(oracle).collect::<Vec<_>>()
    });
    let bases = LOADS.map(|(_, connections)| vec![Base::new(); connections]);
    let mut aged = Aged::default();
    aged.disk_may_fail = true;
    let run = Run {
        plan,
        machine: &mut machine,
        directory,
        rng: Rng::new(plan.seed),
        oracles: oracles.into(),
        bases: bases.into(),
        aged,
        counts: Counts::default(),
        shards: 1,
        loaded_shards: 1,
    };
    Ok(run.cycles())
}

impl Run<'_> {
    fn cycles(mut self) -> String {
        for number in 0..self.plan.cycles.div_ceil(4) {
            self.cut_new_directory(number);
        }
        let mut server = self.come_back();
        for _ in 0..self.plan.cycles {
            create(&server.url);
            let checkpointed = self.load_and_cut(server);
            let cut_at = self.machine.disk().cut_at().expect("it was cut");
            self.power_cycle();
            self.counts.cuts += 1;
            server = self.come_back();
            self.compare(&server.url, cut_at, checkpointed);
        }
        let oracles = || self.oracles.iter().flatten();
        let points: usize = oracles().map(Oracle::len).sum();
        let acked = oracles().map(|o| o.acked).sum::<u64>() + self.aged.acked;
        let deletes: u64 = oracles().map(|o| o.deletes).sum();
        assert!(
            acked > 500 * self.plan.cycles && deletes > 0,
            "the load was too small to show anything: {acked} points, {deletes} deletes"
        );
        let modes: Vec<&str> = self.plan.modes.iter().map(|m| m.name()).collect();
        let Counts {
            cuts,
            cuts_in_recovery,
            cuts_in_mount,
            unsynced,
            forgotten,
            lost,
        } = self.counts;
        format!(
            "power io={} durability={} modes={} seed={} cuts={cuts} cuts_in_recovery={cuts_in_recovery} \
             cuts_in_mount={cuts_in_mount} acked_points={acked} acked_deletes={deletes} unsynced_writes={unsynced} \
             forgotten_writes={forgotten} points_at_end={points} lost={lost} lost_against_promise=0",
            self.plan.io,
            self.plan.durability.name(),
            modes.join("+"),
            self.plan.seed,
        )
    }

    /// A directory that is cut while it is made opens, by itself.
    fn cut_new_directory(&mut self, number: u64) {
        let directory = self.machine.mount_point().join(format!("new-{number}"));
        let data = std::mem::replace(&mut self.directory, directory);
        self.cut_recovery();
        self.come_back().kill();
        self.directory = data;
    }

    fn start(&self) -> Result<Server, String> {
        let shards = self.shards.to_string();
        let durability = self.plan.served.name();
        let flags = ["--durability", &durability, "--shards", &shards];
        Server::start_with(&self.directory, self.plan.io, &flags)
    }

    /// The power is off; it forgets and comes back, the file system is not mounted yet.
    fn power_cycle(&mut self) {
        self.machine.down();
        let modes = &self.plan.modes;
        let cuts = self.counts.cuts + self.counts.cuts_in_recovery + self.counts.cuts_in_mount;
        let mode = modes[(self.plan.seed + cuts) as usize % modes.len()];
        let forgotten = self.machine.power_on(mode, &mut self.rng);
        self.counts.unsynced += forgotten.unsynced;
        self.counts.forgotten += forgotten.lost;
    }

    /// Mounts, where nothing is yet, and starts, up to twice with a cut on the way, then until it is ready.
    fn come_back(&mut self) -> Server {
        for _ in 0..self.rng.below(3) {
            self.cut_recovery();
        }
        if !self.machine.is_mounted() {
            self.machine.up().unwrap();
        }
        self.shards = 1 + self.rng.below(2);
        let mut server = self.start().unwrap();
        server.wait_ready();
        server
    }

    fn cut_recovery(&mut self) {
        let disk = self.machine.disk().clone();
        // Often among the first: opening makes few writes.
        let limit = 1 + self.rng.below(RECOVERY_OPERATIONS);
        disk.cut_after(self.rng.below(limit));
        if !self.machine.is_mounted() {
            match self.machine.up() {
                Ok(()) => {}
                Err(_) if disk.cut_at().is_some() => {
                    self.power_cycle();
                    self.counts.cuts_in_mount += 1;
                    return;
                }
                Err(error) => panic!("the file system does not come back: {error}"),
            }
        }
        self.shards = 1 + self.rng.below(2);
        match self.start() {
            Ok(mut server) => {
                if let Err(error) = server.try_ready() {
                    assert!(
                        disk.cut_at().is_some(),
                        "the server did not come back: {error}"
                    );
                }
                disk.wait_cut(RECOVERY_PATIENCE);
                disk.cut();
                server.kill();
            }
            Err(error) => assert!(
                disk.cut_at().is_some(),
                "the server does not start: {error}"
            ),
        }
        self.power_cycle();
        self.counts.cuts_in_recovery += 1;
    }

    /// Loads the server and cuts the power, at a moment or at an operation. The time before which a checkpoint has
    /// everything.
    fn load_and_cut(&mut self, server: Server) -> Option<Instant> {
        let disk = self.machine.disk().clone();
        let checkpointed = Mutex::new(None);
        let until = Duration::from_millis(50 + self.rng.below(LOAD_MS_MAX));
        // Half of the times with an operation of the disk, wherever that is.
        let operations = (self.rng.below(2) == 0).then(|| self.rng.below(2000));
        let checkpoint_at = Duration::from_millis(self.rng.below(2 * LOAD_MS_MAX));
        self.loaded_shards = self.shards;
        let may_be_lost = match self.plan.durability {
            Durability::Interval { ms } => Duration::from_millis(ms) + FLUSH,
            Durability::Sync | Durability::Os => Duration::ZERO,
        };
        let ages = self.plan.durability == Durability::Sync;
        let url = server.url.clone();
        let (done, ended) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            for oracles in &mut self.oracles {
                for (connection, oracle) in oracles.iter_mut().enumerate() {
                    let (url, rng) = (&url, Rng::new(self.rng.next()));
                    scope.spawn(move || oracle.load(url, connection, rng, || true));
                }
            }
            if ages {
                scope.spawn(|| self.aged.load(&url));
            }
            let (url, checkpointed) = (&url, &checkpointed);
            scope.spawn(move || {
                if ended.recv_timeout(checkpoint_at) == Err(mpsc::RecvTimeoutError::Timeout) {
                    let begin = Instant::now();
                    let mut client = Client::new(url, None).unwrap();
                    let answer = client.request("POST", "/api/checkpoint", &[], b"");
                    if answer.is_ok_and(|a| a.status == 200) {
                        *checkpointed.lock().unwrap() = Some(begin);
                    }
                }
            });
            // Something must be older than may be lost.
            disk.wait_cut(may_be_lost);
            if let Some(operations) = operations {
                disk.cut_after(operations);
            }
            disk.wait_cut(until);
            disk.cut();
            server.kill();
            drop(done);
        });
        checkpointed.into_inner().unwrap()
    }

    fn compare(&mut self, url: &str, cut_at: Instant, checkpointed: Option<Instant>) {
        let floor = match self.plan.durability {
            Durability::Sync => {
                for oracles in &mut self.oracles {
                    oracle::compare(url, oracles);
                }
                self.aged.compare(url);
                return;
            }
            Durability::Interval { ms } => {
                let flushed = cut_at.checked_sub(Duration::from_millis(ms) + FLUSH);
                flushed.max(checkpointed)
            }
            Durability::Os => checkpointed,
        };
        for (oracles, bases) in self.oracles.iter_mut().zip(&mut self.bases) {
            self.counts.lost +=
                prefix::compare(url, oracles, bases, floor, self.loaded_shards == 1);
        }
    }
}

/// Makes the databases, or finds them.
fn create(url: &str) {
    aged::create(url);
    let mut client = Client::new(url, None).unwrap();
    let answer = client
        .request("PUT", "/api/databases/second", &[], b"")
        .unwrap();
    assert!((200..=201).contains(&answer.status), "{}", answer.text());
    let answer = client.request("POST", "/api/checkpoint", &[], b"").unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Appends a line to the report, if there is one.
pub(crate) fn report(path: Option<&Path>, line: &str) {
    println!("{line}");
    if let Some(path) = path {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.create(true).append(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}
