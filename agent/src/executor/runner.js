// Calls one function of one module. Arguments: root, file, function, input file, report file, most bytes of the result.
const fs = require("node:fs");
const path = require("node:path");
const { pathToFileURL } = require("node:url");

const [root, file, name, source, target, most] = process.argv.slice(1);

function raised(error) {
  const known = error instanceof Error;
  const message = known ? `${error.name}${error.message ? ": " + error.message : ""}` : String(error);
  return { raised: { message, stack: known && error.stack ? String(error.stack) : message } };
}

async function report() {
  const parameters = JSON.parse(fs.readFileSync(source, "utf8"));
  const module = await import(pathToFileURL(file).href);
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
