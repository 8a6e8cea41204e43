import dovetail

model = dovetail.load_model("resnet8_fashion").module
data = dovetail.load_dataset("fashion_mnist_sample")
small = dovetail.compress(model, data, dovetail.Recipe.load("deep_compression_quick"))
plain, layouts = dovetail.bake(small.model), dovetail.layouts(small.model)
artefact = dovetail.freeze(plain, layouts, next(data.batches("test", 1))[0], remaining=small.remaining)
artefact.save("model.dvt")
print(dovetail.evaluate(artefact, data, [dovetail.load_target("onnxruntime")], original=model).ratio, "times smaller")
