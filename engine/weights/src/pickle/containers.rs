//! Opcodes of the memo, and of lists, tuples and dicts.

use super::{
    machine::Machine,
    opcode as op,
    value::{Entries, Value},
};
use crate::error::Result;

impl Machine<'_> {
    pub(super) fn put(&mut self, code: u8) -> Result<()> {
        let value = self.top()?.clone();
        let kept = match code {
            op::PUT => {
                let line = self.line()?;
                let key = line.parse().map_err(|_| self.wrong("a key of the memo is not a number"))?;
                self.arena.remember(key, value)
            }
            op::BINPUT => {
                let [key] = self.input.array()?;
                self.arena.remember(u64::from(key), value)
            }
            op::LONG_BINPUT => {
                let key = u32::from_le_bytes(self.input.array()?);
                self.arena.remember(u64::from(key), value)
            }
            _ => self.arena.remember_next(value),
        };
        kept.ok_or_else(|| self.wrong("it has too many values"))
    }

    pub(super) fn get(&mut self, code: u8) -> Result<()> {
        let key = match code {
            op::GET => self.line()?.parse().map_err(|_| self.wrong("a key of the memo is not a number"))?,
            op::BINGET => u64::from(u8::from_le_bytes(self.input.array()?)),
            _ => u64::from(u32::from_le_bytes(self.input.array()?)),
        };
        let value = self.arena.recall(key);
        self.push(value.ok_or_else(|| self.wrong(format!("the memo has no value {key}")))?);
        Ok(())
    }

    /// Runs an opcode that pushes a container.
    pub(super) fn container(&mut self, code: u8) -> Result<()> {
        let items = match code {
            op::LIST | op::TUPLE | op::FROZENSET | op::DICT => self.above_mark()?,
            op::TUPLE1 => self.popped(1)?,
            op::TUPLE2 => self.popped(2)?,
            op::TUPLE3 => self.popped(3)?,
            _ => Vec::new(),
        };
        let made = match code {
            op::DICT | op::EMPTY_DICT => {
                let entries = self.pairs(items)?;
                self.arena.dict(entries)
            }
            _ => self.arena.sequence(items),
        };
        self.push(made.ok_or_else(|| self.wrong("it has too many values"))?);
        Ok(())
    }

    /// Runs an opcode that adds to a container.
    pub(super) fn fill(&mut self, code: u8) -> Result<()> {
        let items = match code {
            op::APPEND => self.popped(1)?,
            op::SETITEM => self.popped(2)?,
            _ => self.above_mark()?,
        };
        let kept = match (code, self.top()?.clone()) {
            (op::SETITEM | op::SETITEMS, Value::Dict(dict)) => {
                let entries = self.pairs(items)?;
                self.arena.insert(dict, entries)
            }
            (op::APPEND | op::APPENDS | op::ADDITEMS, Value::Sequence(list)) => self.arena.extend(list, items),
            (_, other) => return Err(self.wrong(format!("it adds items to {}", other.kind()))),
        };
        kept.ok_or_else(|| self.wrong("it has too many values"))
    }

    fn pairs(&self, items: Vec<Value>) -> Result<Entries> {
        if items.len() % 2 == 1 {
            return Err(self.wrong("a key of a dict has no value"));
        }
        let (mut items, mut entries) = (items.into_iter(), Vec::new());
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            entries.push((key, value));
        }
        Ok(entries)
    }
}
