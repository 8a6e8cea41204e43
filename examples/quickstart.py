import dovetail

model = dovetail.load_model("resnet8_fashion")
data = dovetail.load_dataset("fashion_mnist_sample")
compressed = dovetail.compress(model.module, data, dovetail.Recipe.load("deep_compression_quick"))
artefact = dovetail.freeze(compressed)
artefact.save("model.dvt")
record = dovetail.evaluate(artefact, data, ["onnxruntime"], original=model.module)
print(dovetail.write_report([record], "report"))
