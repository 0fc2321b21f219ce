//! Criterion suites of the structures, and the data they share: always the same, made from fixed seeds.
//!
//! ```sh
//! cargo bench -p alluvium-benches                         # all suites
//! cargo bench -p alluvium-benches --bench tree            # one
//! cargo bench -p alluvium-benches --bench codec -- gauge  # what has a name
//! cargo bench -p alluvium-benches -- --test               # every benchmark once, to see that it runs
//! cargo bench -p alluvium-benches -- --save-baseline main # and later: --baseline main
//! ```
//!
//! Everything runs on one core and on a device in memory: what is measured is the processor's part. Throughput is
//! in elements: points, lines, values or rows, as each suite says. It is *not* the load generator, which measures
//! a server on a real disk: that is `alluvium bench`.
//!
//! ```
//! use alluvium_benches::Shape;
//!
//! assert_eq!(Shape::Gauge.column(100), Shape::Gauge.column(100));
//! ```

mod lines;
mod random;
mod shapes;

pub use lines::{FIELDS, keys, tsbs_body};
pub use random::Random;
pub use shapes::{BEGIN_NS, STEP_NS, Shape};
