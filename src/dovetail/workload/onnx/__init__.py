"""The parts of the ONNX reader, in import order.

types      ONNX element types and how values reach an operator
elementwise, move, reduce, window, resize, normalise, recurrent
           the operators, as plain functions whose parameters have ONNX's own names
operators  the table: operator -> function
host       the operators on shapes, in plain numbers
graph      an ONNX file as nodes and constants
rewrite    constant folding and other changes of the graph
names      from an initialiser's name to a module's path
layers     the nodes that become torch modules with weights
build      from the graph to a torch.fx.GraphModule
"""
