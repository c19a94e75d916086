// Calls one function of one module, whose source is stdin: its path may lead elsewhere by now. Arguments: root, file, function, input
// file, report file, most bytes of the result.
const fs = require("node:fs");
const Module = require("node:module");
const path = require("node:path");
const { pathToFileURL } = require("node:url");

const [root, file, name, given, target, most] = process.argv.slice(1);

function raised(error) {
  const known = error instanceof Error;
  const message = known ? `${error.name}${error.message ? ": " + error.message : ""}` : String(error);
  return { raised: { message, stack: known && error.stack ? String(error.stack) : message } };
}

// As Node decides it: by the extension, or by the nearest package.json.
function isEsm() {
  if (!file.endsWith(".js")) return file.endsWith(".mjs");
  for (let dir = path.dirname(file); ; dir = path.dirname(dir)) {
    try {
      return JSON.parse(fs.readFileSync(path.join(dir, "package.json"), "utf8")).type === "module";
    } catch {
      if (dir === path.dirname(dir)) return false;
    }
  }
}

function loadCommonJs(source) {
  const module = new Module(file);
  module.filename = file;
  module.paths = Module._nodeModulePaths(path.dirname(file));
  Module._cache[file] = module;
  module._compile(source, file);
  module.loaded = true;
  return module.exports;
}

// Runs in a thread of its own, where modules are loaded.
const HOOK = `
let given;
export async function initialize(data) { given = data; }
export async function load(url, context, next) {
  return url === given.url ? { format: "module", source: given.source, shortCircuit: true } : next(url, context);
}`;

function loadEsm(source) {
  if (!Module.register) throw new Error("Node 20.6 or a newer one is needed for functions of ES modules");
  const url = pathToFileURL(file).href;
  Module.register("data:text/javascript," + encodeURIComponent(HOOK), { data: { url, source } });
  return import(url);
}

async function load(source) {
  if (isEsm()) return loadEsm(source);
  try {
    return loadCommonJs(source);
  } catch (error) {
    // Newer ones take a module for what it is written as.
    const isEsmAfterAll = error instanceof SyntaxError && /import statement|'export'|import\.meta/.test(error.message);
    if (!isEsmAfterAll || file.endsWith(".cjs")) throw error;
    return loadEsm(source);
  }
}

async function report() {
  const source = fs.readFileSync(0, "utf8");
  // The function's own stdin is empty, as that of any job.
  fs.closeSync(0);
  fs.openSync("/dev/null", "r");
  const parameters = JSON.parse(fs.readFileSync(given, "utf8"));
  const module = await load(source);
  const own = (holder) => (holder != null && Object.hasOwn(holder, name) ? holder[name] : undefined);
  const found = own(module) ?? own(module.default);
  if (typeof found !== "function") {
    return { no_function: `${path.relative(root, file)} exports no function ${JSON.stringify(name)}` };
  }
  const text = JSON.stringify(await found(parameters)) ?? "null";
  const size = Buffer.byteLength(text);
  return size > Number(most) ? { too_large: size } : `{"returned":${text}}`;
}

function finish(told) {
  fs.writeFileSync(target, typeof told === "string" ? told : JSON.stringify(told));
  // What the module has left open, such as a pool of connections, must not keep the call from ending.
  process.exit(0);
}

process.on("uncaughtException", (error) => finish(raised(error)));
report().then(finish, (error) => finish(raised(error)));
