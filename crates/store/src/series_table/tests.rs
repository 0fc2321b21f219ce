use std::collections::BTreeMap;

use alluvium_types::Partition;

use super::*;

/// What a table should hold: `None` is in memory.
type Model = BTreeMap<(u32, u32), Option<RecordPlace>>;

struct Draws(u64);

impl Draws {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn series(row: u32, field: u32) -> Arc<Series> {
    Arc::new(Series::new(SeriesPlace {
        partition: Partition(0),
        row: Row(row),
        field: FieldId(field),
    }))
}

fn place(file: u8, offset: u64, len: u64) -> RecordPlace {
    RecordPlace::new(file, offset, len).unwrap()
}

fn check(table: &SeriesTable, model: &Model) {
    let away = model.values().filter(|record| record.is_some()).count();
    assert_eq!(table.away(), away);
    let mut found = Model::new();
    let mut in_memory = Vec::new();
    for row in 0..table.row_count() {
        for (field, slot) in table.slots_of_row(Row(row)) {
            assert_eq!(slot.here().is_none(), slot.record().is_some());
            found.insert((row, field.0), slot.record());
        }
        in_memory.extend(table.of_row(Row(row)).map(|(field, _)| (row, field.0)));
    }
    let mut differences = found
        .iter()
        .filter(|(key, record)| model.get(*key) != Some(*record));
    let first = differences
        .next()
        .map(|(key, record)| (key, record, model.get(key)));
    assert_eq!(first, None, "what is there, and what should be");
    assert_eq!(found.len(), model.len());
    let here = model.iter().filter(|(_, record)| record.is_none());
    let here: Vec<(u32, u32)> = here.map(|(key, _)| *key).collect();
    assert!(in_memory == here);
    for ((row, field), record) in model {
        let slot = table.slot(Row(*row), FieldId(*field)).unwrap();
        assert_eq!(slot.record(), *record);
        let here = table.get(Row(*row), FieldId(*field));
        assert_eq!(here.is_some(), record.is_none());
        if record.is_none() {
            let next = table.next_here(Row(*row));
            assert_eq!(next, Some(Row(*row)));
        }
    }
    assert!(table.slot(Row(0), FieldId(1 << 19)).is_none());
}

/// A checkpoint copies all records that are away, and meanwhile some come back.
fn move_all(table: &mut SeriesTable, model: &mut Model, draws: &mut Draws, file: u8) {
    let mut copied = PackedBlocks::default();
    let mut offset = 0;
    for ((row, field), record) in &*model {
        if let Some(record) = record {
            copied.push(Row(*row), FieldId(*field), place(0, offset, record.len()));
            offset += record.len();
        }
    }
    let back = model.keys().filter(|_| draws.below(50) == 0);
    for (row, field) in back.copied().collect::<Vec<_>>() {
        table.put(series(row, field));
        model.insert((row, field), None);
    }
    for (block, mut packed) in copied.into_blocks() {
        packed.set_file(file);
        if let Err(packed) = table.replace_away(block, packed, file) {
            for (row, field, record) in PackedBlocks::entries(block, &packed) {
                if table.slot(row, field).is_some_and(|s| s.here().is_none()) {
                    table.put_away(row, field, record);
                    model.insert((row.0, field.0), Some(record));
                }
            }
        } else {
            for (row, field, record) in PackedBlocks::entries(block, &table.packed_of(block)) {
                model.insert((row.0, field.0), Some(record));
            }
        }
    }
}

impl SeriesTable {
    fn packed_of(&self, block: u32) -> Packed {
        self.blocks[block as usize].packed_series().clone()
    }
}

#[test]
fn a_table_holds_what_was_put_into_it() {
    for seed in 1..40 {
        let mut draws = Draws(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let (mut table, mut model) = (SeriesTable::default(), Model::new());
        let (rows, fields) = (1 + draws.below(600), 1 + draws.below(5));
        let mut offset = 0;
        for step in 0..3000 {
            let key = (draws.below(rows) as u32, draws.below(fields) as u32);
            let (row, field) = (Row(key.0), FieldId(key.1));
            match draws.below(200) {
                0..10 => {
                    // As an opening does it, a piece of a file at a time.
                    let mut met = Vec::new();
                    for row in key.0..key.0 + draws.below(300) as u32 {
                        let record = place(2, offset, 7);
                        offset += 7;
                        met.push((Row(row), field, record));
                    }
                    // Batches side by side, and a record that was met before.
                    let from = draws.below(met.len() as u64 + 1) as usize;
                    met.rotate_left(from);
                    met.extend_from_within(..met.len().min(1));
                    if let [.., last] = met.as_mut_slice() {
                        last.2 = place(3, 1, 7);
                    }
                    let before = model.len();
                    for (row, field, record) in &met {
                        model.entry((row.0, field.0)).or_insert(Some(*record));
                    }
                    assert_eq!(table.add_away(&mut met), model.len() - before);
                }
                10..80 => {
                    let len = 1 + draws.below(300);
                    let record = place(draws.below(3) as u8, offset, len);
                    offset += len;
                    table.put_away(row, field, record);
                    model.insert(key, Some(record));
                }
                80..120 => {
                    let made = table.ensure(SeriesPlace {
                        partition: Partition(0),
                        row,
                        field,
                    });
                    assert_eq!(made, !model.contains_key(&key));
                    model.entry(key).or_insert(None);
                }
                120..150 => {
                    table.put(series(key.0, key.1));
                    model.insert(key, None);
                }
                150..185 => {
                    // Every second one is let go.
                    let kept = table.get(row, FieldId(0)).map(Arc::clone);
                    let mut held = 0;
                    table.spill_row(
                        row,
                        |series| {
                            let field = series.place.field;
                            let record = (field.0 % 2 == 0).then_some(place(1, offset, 9));
                            model.insert((key.0, field.0), record);
                            record
                        },
                        |_| held += 1,
                    );
                    assert_eq!(held, usize::from(kept.is_some()));
                    offset += 9;
                }
                185..195 => {
                    table.remove(row, field);
                    model.remove(&key);
                }
                195..198 => table.pack(key.0..key.0 + 200),
                198 => table.pack_all(),
                _ => move_all(&mut table, &mut model, &mut draws, 3 + (step % 100) as u8),
            }
            if step % 100 == 0 {
                check(&table, &model);
            }
        }
        table.pack_all();
        check(&table, &model);
    }
}

#[test]
fn rows_that_nobody_has_in_memory_cost_two_bytes_at_most() {
    const ROWS: u32 = 100_000;
    let mut table = SeriesTable::default();
    let mut offset = 0;
    let mut met = Vec::new();
    for row in 0..ROWS {
        let len = 55 + u64::from(row * 7 % 13);
        met.push((Row(row), FieldId(0), place(0, offset, len)));
        offset += len;
    }
    assert_eq!(table.add_away(&mut met), ROWS as usize);
    let blocks = table.blocks.capacity() * size_of::<Block>();
    let packed: usize = table.blocks.iter().map(Block::heap_bytes).sum();
    let bytes = blocks + packed;
    assert!(bytes <= 2 * ROWS as usize, "{bytes} bytes");
    assert_eq!(table.next_here(Row(0)), None);
}
