//! A WebSocket server that sends everything back, by tungstenite on tokio.

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpListener;

use crate::{Result, announce};

pub async fn serve() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    announce(listener.local_addr()?.port())?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::task::spawn_local(async move {
            let mut socket = tokio_tungstenite::accept_async(stream).await?;
            while let Some(message) = socket.next().await {
                let message = message?;
                if message.is_text() || message.is_binary() {
                    socket.send(message).await?;
                }
            }
            Ok::<_, Box<dyn std::error::Error>>(())
        });
    }
}
