//! The machine that interprets a pickle. It builds values of this reader and calls nothing of Python's.

use std::rc::Rc;

use super::{
    USE_SAFETENSORS, damaged,
    globals::Global,
    opcode as op, rebuild,
    value::{Arena, Storage, Value},
};
use crate::{error::Result, source::Reader};

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
            op::POP_MARK => drop(self.above_mark()?),
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

    /// Runs an opcode that names or calls a function or a class.
    fn object(&mut self, code: u8) -> Result<()> {
        match code {
            op::GLOBAL | op::INST => {
                let (module, name) = (self.line()?, self.line()?);
                let global = self.global(&module, &name)?;
                if code == op::GLOBAL {
                    self.stack.push(Value::Global(global));
                } else {
                    let arguments = self.above_mark()?;
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
                let mut values = self.above_mark()?;
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

    pub(super) fn push(&mut self, value: Value) {
        self.stack.push(value);
    }

    pub(super) fn top(&self) -> Result<&Value> {
        self.stack.last().ok_or_else(|| self.wrong("the stack is empty"))
    }

    pub(super) fn pop(&mut self) -> Result<Value> {
        self.stack.pop().ok_or_else(|| self.wrong("the stack is empty"))
    }

    /// Pops `count` values, in their order.
    pub(super) fn popped(&mut self, count: usize) -> Result<Vec<Value>> {
        let at = self.stack.len().checked_sub(count);
        let at = at.ok_or_else(|| self.wrong("the stack is empty"))?;
        Ok(self.stack.split_off(at))
    }

    /// Pops the values above the last mark, and the mark.
    pub(super) fn above_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.marks.pop().filter(|mark| *mark <= self.stack.len());
        let mark = mark.ok_or_else(|| self.wrong("a mark is missing"))?;
        Ok(self.stack.split_off(mark))
    }

    pub(super) fn wrong(&self, reason: impl std::fmt::Display) -> crate::WeightsError {
        damaged(self.input.source, reason)
    }
}
