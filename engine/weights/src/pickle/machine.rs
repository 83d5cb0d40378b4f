//! The machine that interprets a pickle. It builds values of this reader and calls nothing of Python's.

use std::rc::Rc;

use super::{
    USE_SAFETENSORS, damaged,
    globals::Global,
    opcode as op, rebuild,
    value::{Arena, Entries, Storage, Value},
};
use crate::{error::Result, source::Reader};

/// Maximum length of a line of protocol 0.
const LONGEST_LINE: usize = 1 << 16;
/// Maximum number of values on the stack.
const DEEPEST: usize = 4 << 20;
/// Maximum number of uses of storages.
const MOST_STORAGES: usize = 1 << 20;
/// Maximum number of arguments of a function; PyTorch's have fewer than ten.
const MOST_ARGUMENTS: usize = 64;

/// Machine of one file.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    pub(super) input: Reader<'a>,
    pub(super) arena: Arena,
    stack: Vec<Value>,
    /// Sizes of the stack at open marks.
    marks: Vec<usize>,
    /// The storages that tensors may be in.
    pub(super) storages: Vec<Rc<Storage>>,
}

impl<'a> Machine<'a> {
    pub(super) fn new(input: Reader<'a>) -> Self {
        Self {
            input,
            arena: Arena::default(),
            stack: Vec::new(),
            marks: Vec::new(),
            storages: Vec::new(),
        }
    }

    /// Interprets one pickle. Returns its value; the next one follows.
    pub(super) fn run(&mut self) -> Result<Value> {
        self.stack.clear();
        self.marks.clear();
        loop {
            let [code] = self.input.array()?;
            if code == op::STOP {
                return self.pop();
            }
            self.step(code)?;
            if self.stack.len() > DEEPEST || self.marks.len() > DEEPEST {
                return Err(self.wrong("it has too many values"));
            }
        }
    }

    /// Forgets the memo: each pickle of a file has its own. Values stay.
    pub(super) fn forget(&mut self) {
        self.arena.forget();
    }

    fn step(&mut self, code: u8) -> Result<()> {
        match code {
            op::MARK => self.marks.push(self.stack.len()),
            op::POP => {
                // Python pops a mark, too.
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            op::POP_MARK => drop(self.to_mark()?),
            op::DUP => {
                let top = self.top()?.clone();
                self.stack.push(top);
            }
            op::PROTO => {
                let [version] = self.input.array()?;
                if version > 5 {
                    return Err(self.wrong(format!("it has protocol {version}, known are 0 to 5")));
                }
            }
            op::FRAME => drop(self.input.array::<8>()?),
            op::GLOBAL | op::INST | op::STACK_GLOBAL | op::REDUCE | op::NEWOBJ | op::NEWOBJ_EX | op::OBJ | op::BUILD => {
                self.object(code)?
            }
            op::PERSID => {
                let line = self.line()?;
                return Err(self.wrong(format!("it refers to an object {line:?} outside of it")));
            }
            op::BINPERSID => {
                let id = self.pop()?;
                let storage = rebuild::storage(&self.arena, &id).map_err(|reason| self.wrong(reason))?;
                if self.storages.len() >= MOST_STORAGES {
                    return Err(self.wrong("it has too many storages"));
                }
                self.storages.push(Rc::clone(&storage));
                self.stack.push(Value::Storage(storage));
            }
            op::PUT | op::BINPUT | op::LONG_BINPUT | op::MEMOIZE => self.put(code)?,
            op::GET | op::BINGET | op::LONG_BINGET => self.get(code)?,
            op::EMPTY_LIST
            | op::EMPTY_SET
            | op::EMPTY_TUPLE
            | op::EMPTY_DICT
            | op::LIST
            | op::TUPLE
            | op::FROZENSET
            | op::TUPLE1
            | op::TUPLE2
            | op::TUPLE3
            | op::DICT => self.container(code)?,
            op::APPEND | op::APPENDS | op::ADDITEMS | op::SETITEM | op::SETITEMS => self.fill(code)?,
            _ => {
                let value = self.scalar(code)?;
                self.stack.push(value);
            }
        }
        Ok(())
    }

    /// Runs an opcode that pushes a number or a text.
    fn scalar(&mut self, code: u8) -> Result<Value> {
        Ok(match code {
            op::NONE => Value::None,
            op::NEWTRUE => Value::Bool(true),
            op::NEWFALSE => Value::Bool(false),
            op::BININT => Value::Int(i64::from(i32::from_le_bytes(self.input.array()?))),
            op::BININT1 => Value::Int(i64::from(u8::from_le_bytes(self.input.array()?))),
            op::BININT2 => Value::Int(i64::from(u16::from_le_bytes(self.input.array()?))),
            op::BINFLOAT => Value::Float(f64::from_be_bytes(self.input.array()?)),
            op::INT => match self.line()?.as_str() {
                "00" => Value::Bool(false),
                "01" => Value::Bool(true),
                line => Value::Int(line.trim().parse().map_err(|_| self.wrong(format!("{line:?} is not a number")))?),
            },
            op::LONG => {
                let line = self.line()?;
                let digits = line.trim_end_matches('L');
                Value::Int(digits.parse().map_err(|_| self.wrong(format!("{line:?} is not a number")))?)
            }
            op::FLOAT => {
                let line = self.line()?;
                Value::Float(line.parse().map_err(|_| self.wrong(format!("{line:?} is not a number")))?)
            }
            op::LONG1 | op::LONG4 => {
                let bytes = if code == op::LONG1 { self.counted(1)? } else { self.counted(4)? };
                long(&bytes)
            }
            op::UNICODE | op::STRING => {
                let line = self.line()?;
                Value::Text(line.trim_matches(['\'', '"']).into())
            }
            op::SHORT_BINUNICODE | op::SHORT_BINSTRING => self.text(1)?,
            op::BINUNICODE | op::BINSTRING => self.text(4)?,
            op::BINUNICODE8 => self.text(8)?,
            op::SHORT_BINBYTES => Value::Bytes(self.counted(1)?.into()),
            op::BINBYTES => Value::Bytes(self.counted(4)?.into()),
            op::BINBYTES8 | op::BYTEARRAY8 => Value::Bytes(self.counted(8)?.into()),
            _ => return Err(self.wrong(format!("the opcode {code:#04x} is not supported"))),
        })
    }

    /// Runs an opcode that names or calls a function or a class.
    fn object(&mut self, code: u8) -> Result<()> {
        match code {
            op::GLOBAL | op::INST => {
                let (module, name) = (self.line()?, self.line()?);
                let global = self.global(&module, &name)?;
                if code == op::GLOBAL {
                    self.stack.push(Value::Global(global));
                } else {
                    let arguments = self.to_mark()?;
                    self.call(&Value::Global(global), &arguments)?;
                }
            }
            op::STACK_GLOBAL => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Some(module), Some(name)) = (module.text(), name.text()) else {
                    return Err(self.wrong("a name of a function is not a text"));
                };
                let global = self.global(module, name)?;
                self.stack.push(Value::Global(global));
            }
            op::REDUCE | op::NEWOBJ | op::NEWOBJ_EX => {
                if code == op::NEWOBJ_EX {
                    self.pop()?;
                }
                let (arguments, callee) = (self.pop()?, self.pop()?);
                let arguments = self
                    .arena
                    .items(&arguments)
                    .ok_or_else(|| self.wrong("arguments are not a tuple"))?;
                let arguments = arguments.to_vec();
                self.call(&callee, &arguments)?;
            }
            op::OBJ => {
                let mut values = self.to_mark()?;
                if values.is_empty() {
                    return Err(self.wrong("an object has no class"));
                }
                let callee = values.remove(0);
                self.call(&callee, &values)?;
            }
            // The attributes of dicts and tensors, such as `_metadata` of a state_dict, are not needed.
            _ => {
                self.pop()?;
                match self.top()? {
                    Value::Dict(_) | Value::Tensor(_) => {}
                    other => {
                        let kind = other.kind();
                        return Err(self.wrong(format!("it sets attributes of {kind}")));
                    }
                }
            }
        }
        Ok(())
    }

    /// Looks up a function or class.
    fn global(&self, module: &str, name: &str) -> Result<Global> {
        Global::named(module, name).ok_or_else(|| {
            let shown = |text: &str| text.chars().take(80).collect::<String>().escape_debug().to_string();
            let (module, name) = (shown(module), shown(name));
            self.input.source.wrong(
                format!("the pickle asks for `{module}.{name}`, which is no part of a tensor: it is not executed, and the file is refused"),
                USE_SAFETENSORS,
            )
        })
    }

    fn call(&mut self, callee: &Value, arguments: &[Value]) -> Result<()> {
        let result = match callee {
            _ if arguments.len() > MOST_ARGUMENTS => Err(format!("it calls a function with {} arguments", arguments.len())),
            Value::Global(global) => rebuild::call(&mut self.arena, *global, arguments),
            other => Err(format!("it calls {}", other.kind())),
        };
        self.stack.push(result.map_err(|reason| self.wrong(reason))?);
        Ok(())
    }

    fn put(&mut self, code: u8) -> Result<()> {
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

    fn get(&mut self, code: u8) -> Result<()> {
        let key = match code {
            op::GET => self.line()?.parse().map_err(|_| self.wrong("a key of the memo is not a number"))?,
            op::BINGET => u64::from(u8::from_le_bytes(self.input.array()?)),
            _ => u64::from(u32::from_le_bytes(self.input.array()?)),
        };
        let value = self.arena.recall(key);
        self.stack
            .push(value.ok_or_else(|| self.wrong(format!("the memo has no value {key}")))?);
        Ok(())
    }

    /// Runs an opcode that pushes a container.
    fn container(&mut self, code: u8) -> Result<()> {
        let items = match code {
            op::LIST | op::TUPLE | op::FROZENSET | op::DICT => self.to_mark()?,
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
        self.stack.push(made.ok_or_else(|| self.wrong("it has too many values"))?);
        Ok(())
    }

    /// Runs an opcode that adds to a container.
    fn fill(&mut self, code: u8) -> Result<()> {
        let items = match code {
            op::APPEND => self.popped(1)?,
            op::SETITEM => self.popped(2)?,
            _ => self.to_mark()?,
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

    fn top(&self) -> Result<&Value> {
        self.stack.last().ok_or_else(|| self.wrong("the stack is empty"))
    }

    fn pop(&mut self) -> Result<Value> {
        self.stack.pop().ok_or_else(|| self.wrong("the stack is empty"))
    }

    /// Pops `count` values, in their order.
    fn popped(&mut self, count: usize) -> Result<Vec<Value>> {
        let at = self.stack.len().checked_sub(count);
        let at = at.ok_or_else(|| self.wrong("the stack is empty"))?;
        Ok(self.stack.split_off(at))
    }

    /// Pops the values above the last mark, and the mark.
    fn to_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.marks.pop().filter(|mark| *mark <= self.stack.len());
        let mark = mark.ok_or_else(|| self.wrong("a mark is missing"))?;
        Ok(self.stack.split_off(mark))
    }

    /// Reads bytes after their number, which has `width` bytes.
    fn counted(&mut self, width: u8) -> Result<Vec<u8>> {
        let count = match width {
            1 => u64::from(u8::from_le_bytes(self.input.array()?)),
            4 => u64::from(u32::from_le_bytes(self.input.array()?)),
            _ => u64::from_le_bytes(self.input.array()?),
        };
        self.input.bytes(count)
    }

    fn text(&mut self, width: u8) -> Result<Value> {
        let bytes = self.counted(width)?;
        let text = String::from_utf8(bytes).map_err(|_| self.wrong("a text is not UTF-8"))?;
        Ok(Value::Text(text.into()))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        loop {
            match self.input.array()? {
                [b'\n'] => break,
                [byte] if line.len() < LONGEST_LINE => line.push(byte),
                _ => return Err(self.wrong("a line is too long")),
            }
        }
        String::from_utf8(line).map_err(|_| self.wrong("a line is not UTF-8"))
    }

    fn wrong(&self, reason: impl std::fmt::Display) -> crate::WeightsError {
        damaged(self.input.source, reason)
    }
}

/// Returns an integer from its bytes, little-endian in two's complement.
fn long(bytes: &[u8]) -> Value {
    if bytes.len() > 8 {
        return Value::Long(Rc::from(bytes));
    }
    let sign = if bytes.last().is_some_and(|byte| *byte >= 0x80) { 0xff } else { 0 };
    let mut wide = [sign; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(wide))
}
