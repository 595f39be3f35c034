//! What Avahi's messages on D-Bus mean. Their contents come from the network.

use super::events::{BrowserEvent, LOOPBACK, Origin, Resolved};
use super::names::Txt;

/// Result flag: the service is on this machine.
const LOCAL: u32 = 8;

/// Parses a signal of a service browser.
pub(super) fn read_browser(name: &str, body: &glib::Variant) -> Option<BrowserEvent> {
    type Item = (i32, i32, String, String, String, u32);
    match name {
        "ItemNew" => {
            let (interface, protocol, name, _, domain, _) = body.get::<Item>()?;
            Some(BrowserEvent::New { origin: Origin { interface, protocol }, name, domain })
        }
        "ItemRemove" => {
            let (interface, protocol, name, ..) = body.get::<Item>()?;
            Some(BrowserEvent::Gone { origin: Origin { interface, protocol }, name })
        }
        "AllForNow" => Some(BrowserEvent::AllForNow),
        "Failure" => {
            let cause = body.get::<(String,)>().map_or_else(|| "no reason given".into(), |(cause,)| cause);
            Some(BrowserEvent::Failure(cause))
        }
        _ => None,
    }
}

/// Parses the result of a lookup.
pub(super) fn read_resolved(body: &glib::Variant) -> Option<Resolved> {
    type Answer = (i32, i32, String, String, String, String, i32, String, u16, Vec<Vec<u8>>, u32);
    let (interface, _, _, _, _, host, _, address, port, txt, flags) = body.get::<Answer>()?;
    // An announcement on the loopback interface comes from this machine.
    let is_ours = flags & LOCAL != 0 || u32::try_from(interface) == Ok(LOOPBACK);
    Resolved::check(host, address.parse().ok()?, port, Txt::received(txt), interface, is_ours)
}
