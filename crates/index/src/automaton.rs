//! An expression as a table: one step a byte, from any state, so that values that share a prefix share its steps.

use regex_automata::Anchored;
use regex_automata::dfa::dense::{self, DFA};
use regex_automata::dfa::{Automaton as _, StartKind};
use regex_automata::nfa::thompson;
use regex_automata::util::primitives::StateID;
use regex_automata::util::{start, syntax};

/// Bytes of a table at most; expressions that need more are run value by value.
const TABLE_BYTES_MAX: usize = 1 << 20;

/// Bytes at most while it is made.
const BUILD_BYTES_MAX: usize = 4 << 20;

/// Decides whether a whole value matches.
#[derive(Debug)]
pub(crate) struct Automaton {
    table: DFA<Vec<u32>>,
    begin: StateID,
}

/// Where a value's bytes have led.
pub(crate) type State = StateID;

impl Automaton {
    /// The automaton of an expression that must match all of a value; `None` if its table would be too large, or it
    /// needs to look around. Cost: tens of microseconds for plain ones, some milliseconds at most.
    pub(crate) fn new(pattern: &str) -> Option<Self> {
        let table = dense::Builder::new()
            .configure(
                dense::Config::new()
                    .start_kind(StartKind::Anchored)
                    .dfa_size_limit(Some(TABLE_BYTES_MAX))
                    .determinize_size_limit(Some(BUILD_BYTES_MAX)),
            )
            .thompson(thompson::Config::new().nfa_size_limit(Some(BUILD_BYTES_MAX)))
            .syntax(syntax::Config::new().dot_matches_new_line(true))
            .build(&format!(r"\A(?:{pattern})\z"))
            .ok()?;
        let config = start::Config::new().anchored(Anchored::Yes);
        let begin = table.start_state(&config).ok()?;
        Some(Self { table, begin })
    }

    /// Before the first byte.
    #[inline]
    pub(crate) fn begin(&self) -> State {
        self.begin
    }

    #[inline]
    pub(crate) fn step(&self, state: State, byte: u8) -> State {
        self.table.next_state(state, byte)
    }

    /// Whether a value that ends here matches.
    #[inline]
    pub(crate) fn accepts(&self, state: State) -> bool {
        self.table.is_match_state(self.table.next_eoi_state(state))
    }
}
