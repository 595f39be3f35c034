//! Files, out and in. Each has a connection of its own, which goes on when the link is lost. Either the whole file is there in the
//! end, or nothing of it.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use network::tls::Fingerprint;
use network::{ClientTls, Error, Server, ServerTls, Socket};

use crate::core::Core;
use crate::near::{Change, Transfer, TransferState, What};
use crate::packet::{self, Packet};
use crate::part::Part;
use crate::progress::Progress;

/// The ports that firewalls are told to open.
const PORTS: std::ops::RangeInclusive<u16> = 1739..=1764;
/// At a time, in both directions together. The rest waits.
const AT_A_TIME: usize = 4;
/// For the other side to come for its file, and without any progress.
const COMING: Duration = Duration::from_secs(30);
const STALLED: Duration = Duration::from_secs(30);
/// Other programs come for all files at once, and read one after the other.
const THEIR_TURN: Duration = Duration::from_secs(600);
/// After a file for another program. kdeconnectd 22.12 never ends a file that was there before its turn.
const BETWEEN: Duration = Duration::from_millis(100);
/// For the end of the connection, when all bytes are here.
const ENDING: Duration = Duration::from_secs(5);
/// Of one reading or writing of the disk.
const BLOCK: usize = 256 << 10;

pub(crate) struct Job {
    device: String,
    /// Of its line in the conversation.
    index: usize,
    source: Source,
    task: Option<network::task::Task>,
}

#[derive(Clone)]
enum Source {
    /// With the number and the bytes of the files that are sent together.
    Ours(PathBuf, (u64, u64)),
    Theirs(packet::File),
}

impl Core {
    pub fn send_files(&self, id: &str, files: &[PathBuf]) -> Result<(), String> {
        self.must_be_secure(id)?;
        let mut sizes = Vec::new();
        for file in files {
            let about = fs::metadata(file).map_err(|error| format!("{}: {error}", file.display()))?;
            sizes.push(
                Some(about.len()).filter(|_| about.is_file()).ok_or(format!("{} is not a file", file.display()))?,
            );
        }
        let batch = (files.len() as u64, sizes.iter().sum());
        for (file, size) in files.iter().zip(sizes) {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            self.add_job(id, &packet::file_name(&name), size, Source::Ours(file.clone(), batch));
        }
        self.pump();
        Ok(())
    }

    pub fn add_incoming(&self, id: &str, file: packet::File) {
        self.add_job(id, &file.name.clone(), file.size, Source::Theirs(file));
        self.pump();
    }

    fn add_job(&self, device: &str, name: &str, size: u64, source: Source) {
        let (id, ours) = (self.serial.get() + 1, matches!(source, Source::Ours(..)));
        self.serial.set(id);
        let transfer = Transfer { id, name: name.into(), ours, size, done: 0, speed: 0, state: TransferState::Waiting };
        let index = self.add_line(device, ours, What::File(transfer));
        self.jobs.borrow_mut().insert(id, Job { device: device.into(), index, source, task: None });
    }

    /// Changes what is told of a transfer.
    pub fn update(&self, id: u64, change: impl FnOnce(&mut Transfer)) {
        let jobs = self.jobs.borrow();
        let mut peers = self.peers.borrow_mut();
        let line = jobs.get(&id).and_then(|job| peers.get_mut(&job.device)?.lines.get_mut(job.index));
        if let Some(What::File(transfer)) = line.map(|line| &mut line.what) {
            change(transfer);
            self.tell(Change::Transfer(id));
        }
    }

    fn transfer(&self, id: u64) -> Option<Transfer> {
        let jobs = self.jobs.borrow();
        let job = jobs.get(&id)?;
        match &self.peers.borrow().get(&job.device)?.lines.get(job.index)?.what {
            What::File(transfer) => Some(transfer.clone()),
            _ => None,
        }
    }

    /// Starts those that wait, as far as there is room.
    pub fn pump(&self) {
        loop {
            let next = {
                let jobs = self.jobs.borrow();
                let is_running = |job: &&Job| job.task.as_ref().is_some_and(|task| !task.is_finished());
                if jobs.values().filter(is_running).count() >= AT_A_TIME {
                    return;
                }
                let waits = |id: u64| self.transfer(id).is_some_and(|it| it.state == TransferState::Waiting);
                let is_ours = |job: &Job| matches!(job.source, Source::Ours(..));
                let is_its_turn = |job: &Job| {
                    let is_before = |other: &Job| other.device == job.device && is_ours(other) && is_running(&other);
                    !is_ours(job) || self.is_near(&job.device) || !jobs.values().any(is_before)
                };
                jobs.iter().find(|(id, job)| waits(**id) && is_its_turn(job)).map(|(id, _)| *id)
            };
            let Some(id) = next else { return };
            self.update(id, |transfer| transfer.state = TransferState::Running);
            let me = self.me.clone();
            let task = network::spawn(async move {
                let Some(core) = me.upgrade() else { return Ok(()) };
                let state = match core.run(id).await {
                    Ok(state) => state,
                    Err(why) => TransferState::Failed(why),
                };
                core.update(id, |transfer| transfer.state = state);
                if let Some(job) = core.jobs.borrow_mut().get_mut(&id) {
                    job.task = None;
                }
                core.pump();
                Ok(())
            });
            if let (Some(job), Ok(task)) = (self.jobs.borrow_mut().get_mut(&id), task) {
                job.task = Some(task);
            }
        }
    }

    pub fn stop(&self, id: u64) {
        let task = self.jobs.borrow_mut().get_mut(&id).and_then(|job| job.task.take());
        if let Some(task) = task {
            task.abort();
        }
        self.update(id, |transfer| {
            if matches!(transfer.state, TransferState::Waiting | TransferState::Running) {
                transfer.state = TransferState::Stopped;
            }
        });
        self.pump();
    }

    pub fn again(&self, id: u64) {
        let is_over = |state: &TransferState| matches!(state, TransferState::Stopped | TransferState::Failed(_));
        if self.transfer(id).is_some_and(|transfer| transfer.ours && is_over(&transfer.state)) {
            self.update(id, |transfer| {
                (transfer.done, transfer.speed, transfer.state) = (0, 0, TransferState::Waiting)
            });
            self.pump();
        }
    }

    fn is_near(&self, device: &str) -> bool {
        self.peers.borrow().get(device).is_some_and(|peer| peer.identity.near)
    }

    async fn run(&self, id: u64) -> Result<TransferState, String> {
        let (device, source) = {
            let jobs = self.jobs.borrow();
            let job = jobs.get(&id).ok_or("There is no such transfer")?;
            (job.device.clone(), job.source.clone())
        };
        let fingerprint = self.store.borrow().paired.get(&device).map(|paired| paired.fingerprint);
        let fingerprint = fingerprint.ok_or("The device is not paired")?;
        match source {
            Source::Ours(path, batch) => self.send_file(id, &device, fingerprint, &path, batch).await,
            Source::Theirs(file) => self.receive_file(id, &device, fingerprint, file).await,
        }
    }

    async fn send_file(
        &self,
        id: u64,
        device: &str,
        pinned: Fingerprint,
        path: &Path,
        batch: (u64, u64),
    ) -> Result<TransferState, String> {
        self.must_be_secure(device)?;
        let mut file = File::open(path).map_err(|error| error.to_string())?;
        let size = file.metadata().map_err(|error| error.to_string())?.len();
        let name = self.transfer(id).map(|transfer| transfer.name).unwrap_or_default();
        if size == 0 {
            self.send(device, &Packet::File(packet::File { name, size, port: None, batch }))?;
            return Ok(TransferState::Sent);
        }
        let tls = ServerTls::from(self.tls.clone()).allow([pinned]);
        let listen = |port| Server::builder().tls(tls.clone()).bind(port);
        let server = PORTS.map(listen).find(|result| !matches!(result, Err(Error::InUse { .. })));
        let server = server.ok_or("The ports 1739 to 1764 are all in use")?.map_err(|error| error.to_string())?;
        self.update(id, |transfer| transfer.size = size);
        self.send(device, &Packet::File(packet::File { name, size, port: Some(server.port()), batch }))?;
        let socket = network::timeout(COMING, server.accept_future()).await;
        let socket = socket.map_err(|_| "The other side did not come for it")?.map_err(|error| error.to_string())?;
        let is_near = self.is_near(device);
        let patience = if is_near { STALLED } else { THEIR_TURN };
        // Its end is told below.
        socket.disconnect_cb(|_, _| {});
        let mut progress = Progress::new();
        let (mut left, mut block) = (size, Vec::new());
        while left > 0 {
            // Reading a file that changes meanwhile must not send more than was announced.
            let most = left.min(BLOCK as u64);
            let read = gio::spawn_blocking(move || {
                block.clear();
                let read = (&file).take(most).read_to_end(&mut block);
                read.map(|_| (file, block))
            });
            (file, block) = read.await.map_err(|_| "The disk")?.map_err(|error| error.to_string())?;
            if block.is_empty() {
                socket.abort();
                return Err("The file has become shorter".into());
            }
            let sent = network::timeout(patience, socket.send_future(&block)).await;
            sent.map_err(|_| "The other side does not read")?.map_err(|error| refusal(&error))?;
            left -= block.len() as u64;
            progress.add(self, id, block.len());
        }
        socket.shutdown_write().map_err(|error| error.to_string())?;
        // The end comes when the other side has taken it all. GSConnect closes only when it collects its garbage.
        match network::timeout(if is_near { STALLED } else { ENDING }, socket.recv_future(1)).await {
            Ok(Err(error @ Error::Reset { .. })) => Err(refusal(&error)),
            _ => {
                progress.last(self, id);
                if !is_near {
                    network::sleep(BETWEEN).await;
                }
                Ok(TransferState::Sent)
            }
        }
    }

    async fn receive_file(
        &self,
        id: u64,
        device: &str,
        pinned: Fingerprint,
        file: packet::File,
    ) -> Result<TransferState, String> {
        let mut part = Part::create(&self.options.downloads, &file.name)?;
        let address = self.peers.borrow().get(device).and_then(|peer| peer.address).ok_or("The device is not here")?;
        let Some(port) = file.port else {
            return part.finish(&file.name).await.map(TransferState::Received);
        };
        let tls = ClientTls::pinned(pinned).identity(self.tls.clone());
        let socket = Socket::builder().tls(tls).connect_timeout(COMING).connect_future(address.at(port));
        let socket = socket.await.map_err(|error| error.to_string())?;
        socket.disconnect_cb(|_, _| {});
        let mut progress = Progress::new();
        let (mut left, mut block) = (file.size, Vec::new());
        while left > 0 {
            block.resize(left.min(BLOCK as u64) as usize, 0);
            let mut filled = 0;
            while filled < block.len() {
                let read = network::timeout(STALLED, socket.recv_into_future(&mut block[filled..])).await;
                let read = match read.map_err(|_| "The other side has stopped sending")? {
                    Err(Error::Closed { .. }) => 0,
                    read => read.map_err(|error| error.to_string())?,
                };
                if read == 0 {
                    return Err("The other side has sent less than it had announced".into());
                }
                filled += read;
            }
            left -= filled as u64;
            block = part.write(block).await.inspect_err(|_| drop(socket.abort()))?;
            progress.add(self, id, filled);
        }
        if let Ok(Ok(more)) = network::timeout(ENDING, socket.recv_future(1)).await
            && !more.is_empty()
        {
            socket.abort();
            return Err("The other side has sent more than it had announced".into());
        }
        let path = part.finish(&file.name).await.inspect_err(|_| drop(socket.abort()))?;
        socket.close();
        progress.last(self, id);
        Ok(TransferState::Received(path))
    }
}

fn refusal(error: &Error) -> String {
    match error {
        Error::Reset { .. } | Error::Closed { .. } | Error::Truncated { .. } => {
            "The other side did not take it: it was stopped, or there is no room for it".into()
        }
        error => error.to_string(),
    }
}
