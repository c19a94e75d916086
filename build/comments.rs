//! The comments of the proto files, by the full name of what they stand before.

use std::collections::BTreeMap;

use prost_types::{FileDescriptorProto, SourceCodeInfo};

/// Numbers of the fields of descriptors, by which source information names its places.
const MESSAGES: i32 = 4;
const ENUMS: i32 = 5;
const SERVICES: i32 = 6;
const PARTS: i32 = 2;

/// Comments by name: `Job`, `Job.maxConcurrent`, `JobStatus`, `JobStatus.JOB_STATUS_ACTIVE`, `JobService`, `JobService.CreateJob`.
pub(crate) struct Comments(BTreeMap<String, String>);

impl Comments {
    pub(crate) fn of<'a>(files: impl Iterator<Item = &'a FileDescriptorProto>) -> Self {
        let mut comments = Self(BTreeMap::new());
        for file in files {
            comments.read(file);
        }
        comments
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn read(&mut self, file: &FileDescriptorProto) {
        let Some(info) = &file.source_code_info else { return };
        for (i, message) in file.message_type.iter().enumerate() {
            self.put(info, &[MESSAGES, index(i)], message.name().to_owned());
            for (j, field) in message.field.iter().enumerate() {
                self.put(
                    info,
                    &[MESSAGES, index(i), PARTS, index(j)],
                    format!("{}.{}", message.name(), field.json_name()),
                );
            }
        }
        for (i, descriptor) in file.enum_type.iter().enumerate() {
            self.put(info, &[ENUMS, index(i)], descriptor.name().to_owned());
            for (j, value) in descriptor.value.iter().enumerate() {
                let name = format!("{}.{}", descriptor.name(), value.name());
                self.put(info, &[ENUMS, index(i), PARTS, index(j)], name);
            }
        }
        for (i, service) in file.service.iter().enumerate() {
            self.put(info, &[SERVICES, index(i)], service.name().to_owned());
            for (j, method) in service.method.iter().enumerate() {
                self.put(info, &[SERVICES, index(i), PARTS, index(j)], format!("{}.{}", service.name(), method.name()));
            }
        }
    }

    fn put(&mut self, info: &SourceCodeInfo, path: &[i32], name: String) {
        let found = info.location.iter().find(|location| location.path == path);
        let text = found.map(|location| location.leading_comments().trim()).unwrap_or_default();
        if !text.is_empty() {
            let lines: Vec<&str> = text.lines().map(str::trim).collect();
            self.0.insert(name, lines.join("\n"));
        }
    }
}

fn index(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
