//! The server as a library: HTTP over one store, from bind to clean stop.
//!
//! It speaks line protocol as clients of InfluxDB 1, 2 and 3 send it, the JSON query language, and what is
//! needed to run it: health, status, metrics, databases, checkpoints. It is *not* a query engine and not a
//! store; it parses nothing that `alluvium-protocol` parses. With `alluvium-cli` it is the only asynchronous
//! code of the project.
//!
//! ```
//! use std::sync::Arc;
//! use alluvium_server::{Config, Storage, serve};
//!
//! # tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
//! // A device in memory: shards and one lane more. `Storage::Directory` is a real one.
//! let device = Arc::new(alluvium_io::MemoryDevice::new(3));
//! let mut config = Config::new(Storage::Device(device));
//! config.http = "127.0.0.1:0".into();
//! let mut running = serve(config).await?;
//! running.ready().await?;
//! println!("curl http://{}/ping", running.address());
//! running.stop().await?;
//! # Ok::<(), alluvium_server::ServeError>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Limits: those of [`Limits`], each with its answer when it is reached; HTTP/1.1 without TLS.

mod admin;
mod app;
mod asked;
mod attended;
mod backup;
mod beside;
mod body;
mod cardinality;
mod config;
mod confirm;
mod delete;
mod error;
mod influx;
mod ingest;
mod limit_numbers;
mod metrics;
mod names;
mod params;
mod query;
mod reply;
mod routes;
mod search;
mod serve;
mod status;
mod tokens;
mod unpack;
mod verify;
mod write;
mod writers;

pub use config::{Config, Limits, Storage};
pub use error::ServeError;
pub use limit_numbers::SettingError;
pub use serve::{Running, serve};
