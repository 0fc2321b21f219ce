//! Hot loops compiled a second time for the wider instructions that a processor turns out to have.
//!
//! Both are the same source, so that they give the same bytes; the portable one runs wherever AVX2, FMA and BMI2
//! are not found.

/// Defines a function twice and calls the faster one that can run here. `WIDE` tells the body which it is.
macro_rules! multiversion {
    (
        $(#[$doc:meta])*
        $vis:vis fn $name:ident $(<$(const $c:ident: $number:ty),+>)? ($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)?
        $body:block
    ) => {
        $(#[$doc])*
        $vis fn $name $(<$(const $c: $number),+>)? ($($arg: $type),*) $(-> $result)? {
            #[inline(always)]
            #[allow(clippy::extra_unused_type_parameters, reason = "most bodies are the same for both")]
            fn body<const WIDE: bool $($(, const $c: $number)+)?>($($arg: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt")]
                fn wide $(<$(const $c: $number),+>)? ($($arg: $type),*) $(-> $result)? {
                    body::<true $($(, $c)+)?>($($arg),*)
                }
                if $crate::simd::wide() {
                    // SAFETY: the processor has the instructions.
                    #[expect(unsafe_code, reason = "the call of a function for another processor")]
                    return unsafe { wide $(::<$($c),+>)? ($($arg),*) };
                }
            }
            body::<false $($(, $c)+)?>($($arg),*)
        }
    };
}

pub(crate) use multiversion;

/// Whether the wide instructions are there and wanted.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn wide() -> bool {
    #[cfg(test)]
    if PORTABLE.with(std::cell::Cell::get) {
        return false;
    }
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
}

#[cfg(test)]
thread_local! {
    /// Set by tests that compare both.
    pub(crate) static PORTABLE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

#[cfg(test)]
mod tests {
    use alluvium_types::{Column, ValueKind};
    use proptest::prelude::*;

    use super::*;
    use crate::{Compression, Encoder, Hint, Models, decode_block};

    fn portably<T>(call: impl FnOnce() -> T) -> T {
        PORTABLE.with(|p| p.set(true));
        let result = call();
        PORTABLE.with(|p| p.set(false));
        result
    }

    proptest! {
        #[test]
        fn both_write_and_read_the_same(
            seed in any::<u64>(),
            spread in 0_u32..64,
            places in 0_i32..6,
            kind in prop::sample::select(vec![ValueKind::F64, ValueKind::I64]),
            small in any::<bool>(),
            points in 1_usize..600,
        ) {
            let mut column = Column::new(kind);
            let (mut state, mut level) = (seed | 1, 0_i64);
            for i in 0..points as i64 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                level = level.wrapping_add((state as i64) >> spread);
                let bits = match kind {
                    ValueKind::F64 => (level as f64 / 10_f64.powi(places)).to_bits(),
                    _ => level as u64,
                };
                column.push_bits(i * 1000 + (state >> 58) as i64, bits);
            }
            let compression = if small { Compression::Small } else { Compression::Balanced };
            let encode = || {
                let mut bytes = Vec::new();
                let (hint, models) = (&mut Hint::default(), Models::default());
                Encoder::new(compression).encode(&column, 0..points, hint, models, &mut bytes);
                bytes
            };
            let bytes = encode();
            prop_assert_eq!(&bytes, &portably(encode));
            let decode = || {
                let mut back = Column::new(kind);
                decode_block(&bytes, points, column.times[0], Models::default(), &mut back).map(|()| back)
            };
            prop_assert_eq!(decode(), Ok(column.clone()));
            prop_assert_eq!(portably(decode), Ok(column.clone()));
        }
    }
}
