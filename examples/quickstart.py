import dovetail

model = dovetail.load_model("resnet8_fashion").module
data = dovetail.load_dataset("fashion_mnist_sample")
small = dovetail.compress(model, data, dovetail.Recipe.load("deep_compression_quick"))
artefact = dovetail.freeze(small.model, data.example(), remaining=small.remaining, provenance=small.provenance)
artefact.save("model.dvt")
print(f"{dovetail.evaluate(artefact, data, ['onnxruntime'], original=model).ratio:.1f} times smaller")
