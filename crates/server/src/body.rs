//! Request bodies: collected as they come, counted, and parsed only once they are whole.
//!
//! An unfinished body holds nothing but its own bytes, each counted as [`Owner::Bodies`]; no writer, lock or
//! prepared buffer waits for it.

use std::sync::Arc;
use std::time::Duration;

use alluvium_types::{Budget, BudgetExceeded, Owner};
use axum::body::Body;
use axum::http::StatusCode;
use bytes::Bytes;
use http_body_util::BodyExt;

use crate::unpack::{UnpackError, unpack};

/// Bodies up to this many bytes are counted and never refused for want of memory: queries, deletes and what asks about them go on
/// where batches do not. Connections bound how many there are.
const SMALL_BYTES: u64 = 64 << 10;

/// Bytes taken from the budget for as long as this lives.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Reservation {
    fn new(budget: Arc<Budget>) -> Self {
        Self { budget, bytes: 0 }
    }

    /// Makes it at least `bytes` in all.
    fn grow_to(&mut self, bytes: usize) -> Result<(), BudgetExceeded> {
        let bytes = bytes as u64;
        if bytes > self.bytes {
            let more = bytes - self.bytes;
            if bytes <= SMALL_BYTES {
                self.budget.force(Owner::Bodies, more);
            } else {
                self.budget.reserve(Owner::Bodies, more)?;
            }
            self.bytes = bytes;
        }
        Ok(())
    }

    fn release(&mut self) {
        self.budget.release(Owner::Bodies, self.bytes);
        self.bytes = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.release();
    }
}

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
}

impl Encoding {
    /// From the header `Content-Encoding`; `None` if it is another.
    pub(crate) fn parse(value: Option<&[u8]>) -> Option<Self> {
        match value.unwrap_or_default().trim_ascii() {
            v if v.is_empty() || v.eq_ignore_ascii_case(b"identity") => Some(Self::Identity),
            v if v.eq_ignore_ascii_case(b"gzip") || v.eq_ignore_ascii_case(b"x-gzip") => {
                Some(Self::Gzip)
            }
            _ => None,
        }
    }
}

/// Why a body was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error(
        "the body has more than {limit} bytes{after}; send smaller batches or raise the setting body_bytes_max"
    )]
    TooLarge { limit: usize, after: &'static str },
    #[error("the body made no progress for {} s", .0.as_secs_f32())]
    Idle(Duration),
    #[error("the body ended early: {0}")]
    Broken(String),
    #[error("the body is not valid gzip: {0}")]
    Gzip(std::io::Error),
    #[error("{0}; try again later or raise the setting memory")]
    Memory(#[from] BudgetExceeded),
}

impl BodyError {
    /// What it is answered with.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Idle(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Broken(_) | Self::Gzip(_) => StatusCode::BAD_REQUEST,
            Self::Memory(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// A whole body, still packed.
#[derive(Debug)]
pub(crate) struct Collected {
    bytes: Bytes,
    reservation: Reservation,
}

/// Takes a body frame by frame. Of one that memory has no room for the rest is read and forgotten, so that the sender gets to see why.
pub(crate) async fn collect(
    mut body: Body,
    budget: &Arc<Budget>,
    limit: usize,
    idle: Duration,
) -> Result<Collected, BodyError> {
    let mut reservation = Reservation::new(Arc::clone(budget));
    let mut first = Bytes::new();
    let mut rest: Vec<u8> = Vec::new();
    let (mut seen, mut refused) = (0, None);
    loop {
        let frame = tokio::time::timeout(idle, body.frame())
            .await
            .map_err(|_| BodyError::Idle(idle))?;
        let data = match frame {
            None => break,
            Some(Err(error)) => return Err(BodyError::Broken(error.to_string())),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => data,
                Err(_) => continue,
            },
        };
        seen += data.len();
        if seen > limit {
            return Err(BodyError::TooLarge { limit, after: "" });
        }
        if refused.is_some() {
            continue;
        }
        let room = if rest.capacity() - rest.len() < data.len() && !rest.is_empty() {
            (2 * rest.capacity()).min(limit)
        } else {
            seen
        };
        if let Err(error) = reservation.grow_to(room.max(seen)) {
            (first, rest) = (Bytes::new(), Vec::new());
            reservation.release();
            refused = Some(error);
            continue;
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.reserve(seen);
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&data);
        }
    }
    if let Some(error) = refused {
        return Err(error.into());
    }
    let bytes = if rest.is_empty() { first } else { rest.into() };
    Ok(Collected { bytes, reservation })
}

impl Collected {
    /// Bytes as they came.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Unpacks, never past `limit` bytes. CPU work.
    pub(crate) fn unpack(
        mut self,
        encoding: Encoding,
        limit: usize,
    ) -> Result<Unpacked, BodyError> {
        if encoding == Encoding::Identity || self.bytes.is_empty() {
            return Ok(Unpacked {
                bytes: self.bytes,
                _reservation: self.reservation,
            });
        }
        let packed = self.bytes.len();
        let reservation = &mut self.reservation;
        let out = unpack(&self.bytes, limit, |room| {
            reservation.grow_to(packed + room)
        });
        let out = out.map_err(|error| match error {
            UnpackError::TooLarge => BodyError::TooLarge {
                limit,
                after: " after decompression",
            },
            UnpackError::Gzip(error) => BodyError::Gzip(error),
            UnpackError::Memory(error) => BodyError::Memory(error),
        })?;
        Ok(Unpacked {
            bytes: out.into(),
            _reservation: self.reservation,
        })
    }
}

/// A whole body, ready to parse.
#[derive(Debug)]
pub(crate) struct Unpacked {
    pub bytes: Bytes,
    _reservation: Reservation,
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn unpack(packed: Vec<u8>, limit: usize, budget: &Arc<Budget>) -> Result<Bytes, BodyError> {
        let collected = Collected {
            bytes: packed.into(),
            reservation: Reservation::new(Arc::clone(budget)),
        };
        collected.unpack(Encoding::Gzip, limit).map(|u| u.bytes)
    }

    #[test]
    fn gzip_is_unpacked_up_to_the_limit_and_no_further() {
        let budget = Arc::new(Budget::new(u64::MAX));
        let text = vec![b'x'; 200_000];
        let mut two = gzip(&text);
        two.extend(gzip(b"y"));
        assert_eq!(
            unpack(gzip(&text), 200_000, &budget).unwrap().len(),
            200_000
        );
        assert!(matches!(
            unpack(two.clone(), 200_000, &budget),
            Err(BodyError::TooLarge { .. })
        ));
        assert_eq!(unpack(two, 200_001, &budget).unwrap().last(), Some(&b'y'));
        assert!(matches!(
            unpack(b"garbage".to_vec(), 10, &budget),
            Err(BodyError::Gzip(_))
        ));
        let cut = gzip(&text);
        assert!(matches!(
            unpack(cut[..cut.len() - 9].to_vec(), 1 << 20, &budget),
            Err(BodyError::Gzip(_))
        ));
        let many: Vec<u8> = (0..5_000).flat_map(|_| gzip(b"z")).collect();
        assert_eq!(
            *unpack(many.clone(), 5_000, &budget).unwrap(),
            [b'z'; 5_000]
        );
        assert!(matches!(
            unpack(many, 4_999, &budget),
            Err(BodyError::TooLarge { .. })
        ));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_bomb_is_refused_by_the_budget_too() {
        let budget = Arc::new(Budget::new(1 << 20));
        let bomb = gzip(&vec![0; 30 << 20]);
        let refused = unpack(bomb, 25_000_000, &budget).unwrap_err();
        assert!(matches!(refused, BodyError::Memory(_)));
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(budget.used(), 0);
    }
}
