//! The packets of `examples/near`. Their file needs nothing else of it, and no GTK.
#![no_main]

#[allow(dead_code)]
#[path = "../../examples/near/src/packet.rs"]
mod packet;

use packet::Packet;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    match Packet::parse(data) {
        Err(_) | Ok(Packet::Other) => {}
        // What is written is read as the same.
        Ok(packet) => assert_eq!(Packet::parse(packet.to_line().as_bytes()), Ok(packet)),
    }
});
