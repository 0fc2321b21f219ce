//! Hot loops compiled a second time for the wider instructions that a processor turns out to have.
//!
//! Both are the same source, so that they give the same bytes; the portable one runs wherever AVX2 and BMI2 are
//! not found.

/// Defines a function twice and calls the faster one that can run here.
macro_rules! multiversion {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$doc])*
        fn $name($($arg: $type),*) $(-> $result)? {
            #[inline(always)]
            fn portable($($arg: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt")]
                fn wide($($arg: $type),*) $(-> $result)? {
                    portable($($arg),*)
                }
                if $crate::simd::wide() {
                    // SAFETY: the processor has the instructions.
                    #[expect(unsafe_code, reason = "the call of a function for another processor")]
                    return unsafe { wide($($arg),*) };
                }
            }
            portable($($arg),*)
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
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
}

#[cfg(test)]
thread_local! {
    /// Set by tests that compare both.
    pub(crate) static PORTABLE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}
