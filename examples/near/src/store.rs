//! What is kept: who this device is, whom it is paired with, addresses added by hand. One file of JSON, replaced as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use network::tls::Fingerprint;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};

use crate::near::OpenError;
use crate::packet;
use crate::place::Place;

/// A paired device.
#[derive(Clone, Debug, PartialEq)]
pub struct Paired {
    pub name: String,
    pub kind: String,
    pub fingerprint: Fingerprint,
    /// Seconds since 1970.
    pub date: i64,
    pub strong: bool,
    /// It is not accepted with an older version of the protocol from then on.
    pub version: u64,
    pub address: Option<Place>,
}

/// Keeps another Near out of the data directory, until the file is closed.
pub fn lock(directory: &Path) -> Result<File, OpenError> {
    let file = directory.join("lock");
    let problem = |error| OpenError::from(format!("{}: {}", file.display(), plain(error)));
    make(directory)?;
    let lock = File::options().write(true).create(true).truncate(false).open(&file).map_err(problem)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::DataInUse(directory.into())),
        Err(TryLockError::Error(error)) => Err(problem(error)),
    }
}

pub struct Store {
    file: PathBuf,
    pub id: String,
    pub name: String,
    pub paired: BTreeMap<String, Paired>,
    /// All that were ever paired the strong way. The weak way is not for them.
    pub once_strong: BTreeSet<String>,
    pub addresses: BTreeSet<String>,
}

impl Store {
    /// Reads the file, or begins a new one.
    pub fn open(directory: &Path) -> Result<Store, String> {
        let file = directory.join("near.json");
        let problem = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        make(directory)?;
        let all: Value = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| problem(&error))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => json!({}),
            Err(error) => return Err(problem(&plain(error))),
        };
        let strings = |key: &str| {
            let list = all[key].as_array().map_or(&[] as &[Value], Vec::as_slice);
            list.iter().filter_map(|item| item.as_str().map(Into::into)).collect()
        };
        let id = match all["id"].as_str() {
            Some(id) if packet::is_id(id) => id.to_owned(),
            _ => new_id().ok_or_else(|| problem(&"the system has no random numbers"))?,
        };
        let devices = all["paired"].as_object().cloned().unwrap_or_default();
        let store = Store {
            id,
            name: all["name"].as_str().unwrap_or_default().into(),
            paired: devices.iter().filter_map(|(id, value)| Some((id.clone(), paired(value)?))).collect(),
            once_strong: strings("once_strong"),
            addresses: strings("addresses"),
            file,
        };
        store.save()?;
        Ok(store)
    }

    /// Replaces the file.
    pub fn save(&self) -> Result<(), String> {
        let device = |device: &Paired| {
            json!({
                "name": device.name, "kind": device.kind, "fingerprint": device.fingerprint.to_string(), "date": device.date,
                "strong": device.strong, "version": device.version, "address": device.address.map(|place| place.to_string()),
            })
        };
        let devices: BTreeMap<_, _> = self.paired.iter().map(|(id, paired)| (id, device(paired))).collect();
        let all = json!({
            "id": self.id, "name": self.name, "paired": devices, "once_strong": self.once_strong, "addresses": self.addresses,
        });
        let new = self.file.with_extension("new");
        let written = fs::write(&new, format!("{all:#}\n")).and_then(|()| File::open(&new)?.sync_all());
        written
            .and_then(|()| fs::rename(&new, &self.file))
            .map_err(|error| format!("{}: {}", self.file.display(), plain(error)))
    }
}

fn make(directory: &Path) -> Result<(), String> {
    fs::create_dir_all(directory).map_err(|error| format!("{}: {}", directory.display(), plain(error)))
}

/// Returns the text of an error, without its number.
pub(crate) fn plain(error: std::io::Error) -> String {
    network::Error::from(error).to_string()
}

fn paired(value: &Value) -> Option<Paired> {
    Some(Paired {
        name: packet::device_name(value["name"].as_str()?),
        kind: value["kind"].as_str()?.into(),
        fingerprint: value["fingerprint"].as_str()?.parse().ok()?,
        date: value["date"].as_i64()?,
        strong: value["strong"].as_bool()?,
        version: value["version"].as_u64()?,
        address: value["address"].as_str().and_then(|address| address.parse().ok()),
    })
}

fn new_id() -> Option<String> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
