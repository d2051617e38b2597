// Forecasts without Python: in a browser, or in Node with `npm install onnxruntime-web`.
//
//     tinytsm export nano nano.onnx
//     node docs/examples/forecast.mjs nano.onnx 1 2 3 4 3 2 1 2 3 4 3 2

/** Rows of nine quantiles, 10 % to 90 %, for the next `steps` steps (768 at most).
 *
 * values: numbers, newest last, NaN where missing; the newest `context` of them are read. session: of the ONNX file.
 */
export async function forecast(ort, session, values, steps, context = 2048) {
  const newest = values.slice(-context);
  let length = 512;
  while (length < newest.length) length *= 2;
  const history = new Float32Array(length).fill(NaN);
  history.set(newest, length - newest.length);
  const { quantiles } = await session.run({ history: new ort.Tensor("float32", history, [1, length]) });
  const levels = quantiles.dims[2];
  return Array.from({ length: steps }, (_, i) => [...quantiles.data.subarray(i * levels, (i + 1) * levels)]);
}

if (typeof process !== "undefined" && import.meta.url === `file://${process.argv[1]}`) {
  const ort = await import("onnxruntime-web");
  const { readFile } = await import("node:fs/promises");
  const [file, ...values] = process.argv.slice(2);
  const session = await ort.InferenceSession.create(await readFile(file));
  console.table(await forecast(ort, session, values.map(Number), 6));
}
