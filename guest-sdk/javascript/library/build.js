#!/usr/bin/env node
// Makes a component of a task: `node stem-guest/build.js src/task.js --output task.wasm [--engine quickjs|spidermonkey]`.

import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const USAGE = "usage: build.js TASK.js --output FILE.wasm [--engine quickjs|spidermonkey] [--wit DIR]";
const LIBRARY = dirname(fileURLToPath(import.meta.url));

class Mistake extends Error {}

function read() {
  let parsed;
  try {
    parsed = parseArgs({
      allowPositionals: true,
      options: {
        output: { type: "string", short: "o" },
        engine: { type: "string", default: "quickjs" },
        wit: { type: "string", default: join(LIBRARY, "wit") },
      },
    });
  } catch (error) {
    throw new Mistake(`${error.message}\nhint: ${USAGE}`);
  }
  const { positionals, values } = parsed;
  if (positionals.length !== 1 || values.output === undefined) throw new Mistake(USAGE);
  return { task: resolve(positionals[0]), ...values };
}

/** The tool as the project has installed it, which may lie elsewhere than this library. */
async function tool(name, version) {
  const folder = join(process.cwd(), "node_modules", name);
  try {
    const { main, exports: given } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
    const entry = given?.import ?? main;
    return await import(pathToFileURL(join(folder, entry)).href);
  } catch (error) {
    throw new Mistake(`${name} cannot be loaded: ${error.message}\nhint: npm install --save-dev --save-exact ${name}@${version}`);
  }
}

/** The module that the worker calls, as one that stands in the library's folder. */
function entry(task) {
  const path = relative(LIBRARY, task).replaceAll("\\", "/");
  return `import "./globals.js";
import { handlerOf } from "./worker.js";
import task from ${JSON.stringify(path.startsWith(".") ? path : `./${path}`)};
export const handler = handlerOf(task);
`;
}

function commonFolder(one, other) {
  let folder = one;
  while (relative(folder, other).startsWith("..")) folder = dirname(folder);
  return folder;
}

const ENGINES = {
  async quickjs({ task, wit }) {
    const { componentize } = await tool("componentize-qjs", "0.4.3");
    const { component } = await componentize({
      witPath: wit,
      world: "guest",
      jsSource: entry(task),
      // Must be a file; this one is imported by no task.
      jsPath: fileURLToPath(import.meta.url),
      moduleRoot: commonFolder(dirname(task), LIBRARY),
      sync: true,
    });
    return component;
  },

  // For tasks that need promises, fetch or other things of browsers; twelve times larger and slower to compile.
  async spidermonkey({ task, wit }) {
    const { componentize } = await tool("@bytecodealliance/componentize-js", "0.23.0");
    const { build } = await tool("esbuild", "0.28.2");
    const { outputFiles } = await build({
      stdin: { contents: entry(task), resolveDir: LIBRARY, sourcefile: "entry.js" },
      absWorkingDir: process.cwd(),
      bundle: true,
      format: "esm",
      external: ["stem:*"],
      write: false,
    });
    const { component } = await componentize(outputFiles[0].text, {
      witPath: wit,
      worldName: "guest",
      disableFeatures: ["http", "fetch-event"],
    });
    return component;
  },
};

async function main() {
  const { output, ...options } = read();
  const engine = Object.hasOwn(ENGINES, options.engine) && ENGINES[options.engine];
  if (!engine) throw new Mistake(`unknown engine ${options.engine}\nhint: ${Object.keys(ENGINES).join(" or ")}`);
  await readFile(options.task).catch((error) => {
    throw new Mistake(`the task cannot be read: ${error.message}`);
  });
  const component = await engine(options);
  const target = resolve(output);
  await mkdir(dirname(target), { recursive: true });
  // Whole or not at all: a worker may be watching the folder.
  await writeFile(`${target}.partial`, component);
  await rename(`${target}.partial`, target);
}

main().catch((error) => {
  console.error(`error: ${error instanceof Mistake ? error.message : (error.stack ?? error)}`);
  process.exitCode = 1;
});
