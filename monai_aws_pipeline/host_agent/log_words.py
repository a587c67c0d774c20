"""Words that the logs of imaging applications are made of, in lower case and without accents.

Here belongs nothing but the list. ``identifiers.py`` leaves these words where they stand alone, because a reader would expect them in any
log: a station called "info" or a patient called "Line" is then not told by the word, and a log without them would tell nothing.
"""

from __future__ import annotations

from typing import Final

_ENGLISH = """
a about above after again against all almost alone along already also although always am an and another any anybody anyone anything are
around as ask at away back be because been before behind being below beside best better between big both but by call called came can
cannot case cases come could day days deal did different do does doing done down during each early eight either else end enough even ever
every example few first five for form found four from full gave general get give given go goes going gone good got great had has have he
hence her here high him his hold how however if in inside instead into is it its itself just keep kind know known large last late later
least left less let like likely line lines little long look low made main make makes making man many match may maybe me mean might mine
more most much must my near need needed needs neither never new next nine no none nor not nothing now of off often old on once one only
onto open or order other others our out outside over own part parts per perhaps place please point possible present put quite rather ready
right run runs same second see seem seen seven several shall she should show side since single six small so some something soon start
state still stop such sure take taken tell ten than that the their them then there these they thing things third this those three through
thus time times to together too top toward try turn two under until up upon us use used uses using very via want was way we well went were
what when where whether which while who whole whose why will with within without word work would write year years yes yet you your zero
"""
_PROGRAMS = """
abort aborted abs access accuracy action active adam add added agent alert allocated allocator already api app application applications
applied apply apt arch arg args argument arguments array arrays artifact assert assertion async attempt attempts attr attribute attributes
auto available avg backend background base bash batch bed begin beta bin binary bit bits blob block blocks body bool boost boot bound
bounds box branch break broken buffer bug build built bundle bus byte bytes cache cached cap card cast catch caught cell center cfg chain
change changed channel channels char check checked checking checkpoint checkpoints child ckpt class classes clean clear cli click client
clip clone close closed cloud cluster cmd code codec collect color column columns command commit common compare compile complete completed
component components compose compress compute computed conda condition conf config configuration configure connect connection const
constant container content context continue control convert converted converting copy core corner correct cost count counter cpu crash
create created creating crop csv cuda cudnn current custom cut daemon data dataloader dataset date datetime dcm debug decode decoded
decoder deepcopy def default define del delay delete delta dense deploy deprecated depth desc description detach detect device devices
dict dictionary diff digest dim dimension dims dir direct directory disable disabled disk dispatch display dist dll docker document domain
double download driver drop dropout dtype dump duration echo edge edit element elements email empty enable enabled encode encoded encoder
endpoint engine ensemble ensure entity entries entry enum env environment epoch equal err errno error errors eval event events exc except
exception exceptions exe exec executable execute executed executing execution executor exist exists exit exited expect expected export exr
extension external extra extract extracted fail failed failing failure false fast fatal fault feature features fetch field fields file
filename files fill filter final finally find finish finished fit fix flag flags flip float flow flush fold folder font force fork format
forward fraction fragment frame frames free freeze function functions future futures gather gb gen generate generated generator get gib
gif git global gpu gpus grad graph grid group guard gz half hand handle handler hash head header headers heap help hidden hit holoscan
home hook host html hub id identifier idle ids ignore ignored image images implementation implicit import imported include index indexes
indices inference inferer inferred inferring info information ini init initial initialize initialized initializing inner input inputs
insert install instance instances int integer interface internal interp interrupt invalid invert io ipc issue item items iter iteration
iterations java job join jpeg jpg js json kernel key keys keyword kill killed kwargs label labels lambda lang launch layer layers layout
lazy leave len length level lib library libs limit limits link linux list listed listing lite load loaded loader loading local location
lock locked log logger logging logic logit logits logs loop loss map mapped mapping mark mask masks match max maximum mb md mean measure
measurement measurements medium mem memory merge mesh message messages meta metadata method metric metrics mha mib middle min minimum
minor minute minutes mismatch missing mkdir mm mmap mock mod mode model models module modules monai monitor mount move ms msg multi mutex
name named names namespace nan native ndarray nested net network nib nibabel nii node nodes non nonzero norm normal normalize notice np
npz nrrd null num number numbers numpy nvidia obj object objects obsolete off offset ok onnx op operation operator operators optimizer
option optional options origin original os output outputs overflow overlap overlay override package pad padding page panic param parameter
parameters parent parse parsed parser parsing pass passed patch path paths pattern pause pdf pending percent perform performance period
permission permute persistent phase pickle pid ping pip pipe pipeline pixel pixels plain plan plane plot plugin ply png pod pool pop port
ports position post postprocess power pre precision pred predict predicted prediction prefix prepare preprocess preprocessing previous
primary print printed private prob probability probe problem process processed processes processing processor product profile program
progress project prop properties property protocol proxy pt pth public pull push py pyc pydantic pydicom python pytorch quantile query
queue quick quiet quit raise raised ram random range rank rate ratio raw reach read reader reading reason receive received record recover
recursion reduce ref refer reference region register registered registry regular reject relative release reload relu remaining remove
removed rename render replace report repository request requested require required requires resample resampled rescale reset reshape
resize resolution resolve resource resources response rest restart result results resume retry return returned returning returns rgb root
rotate route row rows rule rules runner running runtime safe sample samples sampling save saved saver saving scalar scale scaled scan
scheduler schema scope score scratch script scripts search seconds secs section seed segment select selected selecting selection selector
self send sensor sent sequence sequential serial series server service session set sets setting settings setup sh shape shapes share
shared shell shift short shown shutdown sig sigmoid sign signal silent simple site size sizes skip skipped skipping sleep slice slices
slide sliding slot slow smooth so socket soft softmax software sort source space spacing spawn spec special specified split stack stage
standard started starting static status std stderr stdin stdout step steps stl stopped storage store stored str stream strict string strip
struct structure style sub subject submodule subprocess succeeded success successful successfully suffix sum summary super support
supported suppressed svg swap switch symbol sync syntax sys system table tag tags tar target task tasks temp temporary tensor tensorrt
tensors term test testing text thread threads threshold throw tick timeout timer timestamp tmp token tolerance toml torch total trace
traceback track train trained training transfer transform transforms transpose tree trigger trim true truncated ts tuple txt type types ui
uid uint unable uncaught undefined unexpected uninitialized union unique unit units unknown unlink unpack unsupported update updated
upload upper uri url usage user users utf util utils valid validate validation value values var variable vec vector verbose verify version
versions view virtual visible void volume volumes vtk wait waiting warn warning warnings watch weak web weight weights wheel whl width
window windows worker workers workflow worth wrapper writable writer writing written wrong xml yaml yml zip zlib zoom
"""
_IMAGING = """
abdomen abdominal accession acq acquisition adc adult ae age anatomy angio angiography ankle anon anonymized anonymous aorta ap arm
arterial artery as atlas axial b birth bladder blood bone born brain breast bval bvec cardiac cardio carotid cavity cell cerebral cervical
chest child clinic cm coil colon computed contrast cor coronal coronary cr cs csf ct cta da deg delayed department derived dicom dicomdir
diffusion dixon dose ds dt dti dwi dx dyn dynamic ecg echo ep epi exam examination extremity eye face fat fd female femur field fl flair
flash flip foot fov frontal fs gad gb ghz gib gradient gray gre grey half hand head heart hip hospital hour hours hr hrs hu hz id identity
institute institution is iso isotropic kb kg khz kib kidney kidneys knee kv kvp lateral left leg lesion liver lo lobe loc localiser
localizer lt lung lungs magnitude male mammography manufacturer mas mb medical mev mgy mhz mib min mins mip ml mm modality monochrome
motion mpr mprage mr mra mri mrn ms muscle name native neck nerve neuro neutral nm ns number ob oblique od of ol oncology operator organ
ot ow pa pancreas pathology patient patients pediatric pelvic pelvis person pet phantom physician pn pos position prone prostate protocol
proton pt pulmonary px radiation radiology recon reconstruction region report resonance right routine rt sag sagittal sc scan scanner
scanogram scapula scout sec secs seg segmentation segmentations sequence series sex sh shoulder sinus skull sl slab slice slices soft
space spin spine spleen splenic sq sr ss st stack station stir stomach structure studies study supine sv swi t tb te thick thigh thin
thoracic thorax thyroid ti tissue tm tof torso tr tra transverse trunk tse tumor tumour turbo uc ui ul ultrasound um un undefined
unenhanced unspecified upper ur us ut uterus uv vascular vein venous vertebra vessel vibe view vol volume volumetric voxel voxels vr wb
weighted whole wrist xa xray yrs
"""
_TITLES = """
abu al apr april aug august ben bin da das de dec december del den der di do doctor dos dr du el feb february fri friday ibn ii iii iv jan
january jr jul july jun june la le mar march may md miss mon monday mr mrs ms nov november oct october phd prof rn sat saturday sep sept
september sir sr sun sunday ter thu thursday tue tuesday van von wed wednesday zu zur
"""

LOG_WORDS: Final = frozenset(" ".join((_ENGLISH, _PROGRAMS, _IMAGING, _TITLES)).split())
