// Forecasts without Python: in a browser, or in Node with `npm install onnxruntime-web`.
//
//     tinytsm export nano nano.onnx
//     node docs/examples/forecast.mjs nano.onnx 1 2 3 4 3 2 1 2 3 4 3 2

/** Rows of nine quantiles, 10 % to 90 %, for each of the next `steps` steps, 768 at most.
 *
 * values: numbers, newest last, NaN where missing; the newest `context` of them are read (4096 for `tiny`).
 * ort, session: the module onnxruntime-web, and its session of the ONNX file.
 */
export async function forecast(ort, session, values, steps, context = 2048) {
  const newest = values.slice(-context);
  let length = 512;
  while (length < newest.length) length *= 2;
  const history = new Float32Array(length).fill(NaN);
  history.set(newest, length - newest.length);
  const { quantiles } = await session.run({ history: new ort.Tensor("float32", history, [1, length]) });
  const [, reach, levels] = quantiles.dims;
  if (steps > reach) throw new RangeError(`steps must be at most ${reach}, got ${steps}`);
  return Array.from({ length: steps }, (_, i) => [...quantiles.data.subarray(i * levels, (i + 1) * levels)]);
}

async function main([file, ...numbers]) {
  const values = numbers.map((text) => (text === "NaN" ? NaN : Number(text)));
  if (file === undefined || !values.length || values.some((value, i) => Number.isNaN(value) && numbers[i] !== "NaN")) {
    console.error("usage: node forecast.mjs FILE.onnx NUMBER ..., the newest last, NaN where one is missing");
    process.exit(2);
  }
  const ort = await import("onnxruntime-web");
  const { readFile } = await import("node:fs/promises");
  const session = await ort.InferenceSession.create(await readFile(file));
  console.table(await forecast(ort, session, values, 6));
}

if (typeof process !== "undefined" && process.argv?.[1]) {
  const { realpath } = await import("node:fs/promises");
  const { pathToFileURL } = await import("node:url");
  // run by itself, not imported
  if (import.meta.url === pathToFileURL(await realpath(process.argv[1])).href) await main(process.argv.slice(2));
}
